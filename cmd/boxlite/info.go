package main

import (
	"context"
	"fmt"
	"io"
	goruntime "runtime"
	"text/tabwriter"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// hostInfo is what `boxlite info` shows.
type hostInfo struct {
	Version, Home      string
	OS, Architecture   string
	CPUs               int
	Kernel             *runtime.KernelInfo // that boxes boot; nil where there is none yet
	Virtualization     bool                // boxes can run
	VirtualizationHelp string              // why not, and what to do; empty if they can
	Boxes              int
	BoxesRunning       int
	BoxesStopped       int // without those that were never started
	Images             int
}

func infoCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "info [flags]",
		Short: "Show the host, the home directory and what is in it",
		Long: `Shows the version, the home directory, the kernel that boxes boot, whether this
host can run them, and how many boxes and images there are. boxlite doctor tells
more of the host.`,
		Example: `  boxlite info
  boxlite info --format '{{.Virtualization}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				i, err := collectInfo(cmd.Context(), rt)
				if err != nil {
					return err
				}
				if f == "" || f == "table" {
					return i.print(&stdout)
				}
				return list(&stdout, f, []hostInfo{*i}, nil, nil)
			})
		},
	}
	addFormat[hostInfo](c, &f, "f", "{{.Virtualization}}")
	return c
}

func collectInfo(ctx context.Context, rt *runtime.Runtime) (*hostInfo, error) {
	i := &hostInfo{
		Version: versionString(), Home: rt.HomeDir(), OS: goruntime.GOOS, Architecture: goruntime.GOARCH, CPUs: goruntime.NumCPU(),
	}
	kernels, err := rt.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range kernels {
		if k.InUse {
			i.Kernel = &k
		}
	}
	boxes, err := rt.ListInfo(ctx)
	if err != nil {
		return nil, err
	}
	i.Boxes = len(boxes)
	for _, b := range boxes {
		switch {
		case b.Status.IsActive():
			i.BoxesRunning++
		case b.Status != runtime.StatusConfigured:
			i.BoxesStopped++
		}
	}
	store, err := rt.Images()
	if err != nil {
		return nil, err
	}
	for _, err := range store.Images(ctx) {
		if err != nil {
			return nil, err
		}
		i.Images++
	}
	i.VirtualizationHelp = noVirtualization(ctx)
	i.Virtualization = i.VirtualizationHelp == ""
	return i, nil
}

// noVirtualization is why boxes cannot run here; empty if they can.
func noVirtualization(ctx context.Context) string {
	if err := machine.Check(); err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	return machine.Unusable(ctx)
}

func (i *hostInfo) print(w io.Writer) error {
	kernel := "none yet: see boxlite kernel --help"
	if k := i.Kernel; k != nil {
		if kernel = k.Reference; k.Version != "" {
			kernel += ", version " + k.Version
		}
	}
	usable := "usable"
	if !i.Virtualization {
		usable = "not usable: " + i.VirtualizationHelp
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, line := range [][2]string{
		{"Version", i.Version},
		{"Host", fmt.Sprintf("%s/%s, %d CPUs", i.OS, i.Architecture, i.CPUs)},
		{"Virtualization", usable},
		{"Kernel", kernel},
		{"Home", i.Home},
		{"Boxes", fmt.Sprintf("%d, %d of them running", i.Boxes, i.BoxesRunning)},
		{"Images", fmt.Sprint(i.Images)},
	} {
		fmt.Fprintf(tw, "%s:\t%s\n", line[0], line[1])
	}
	return tw.Flush()
}
