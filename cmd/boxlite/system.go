package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func systemCommand(g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "system COMMAND",
		Short: "Look after the home directory",
		Long:  `Shows what the home directory holds and how much space that takes, and makes room.`,
		Example: `  boxlite system df -v
  boxlite system info
  boxlite system prune -a`,
		RunE: showHelp,
	}
	c.AddCommand(diskUsageCommand(g), infoCommand(g), pruneCommand(g))
	return c
}

// usageRow is a line of `boxlite system df`. Sizes are bytes on disk.
type usageRow struct {
	Type        string
	Total       int   // things there are
	Active      int   // of which in use
	Size        int64 // of all
	Reclaimable int64 // that prune -a, or volume prune -a, would free
}

func diskUsageCommand(g *globalOptions) *cobra.Command {
	var verbose bool
	var f format
	c := &cobra.Command{
		Use:   "df [flags]",
		Short: "Show what takes up how much space",
		Long: `Shows the bytes that images, boxes, volumes, kernels and unfinished downloads take
up on disk, and how much of it boxlite prune -a and boxlite volume prune -a would
free. Layers that images share
count once; disks of boxes count with what is stored of them. The kernel that is
built into boxlite is in the home directory, and counts, once a box has started.`,
		Example: `  boxlite system df
  boxlite system df -v`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbose && cmd.Flags().Changed("format") {
				return errors.New("system df: -v is a text of its own: leave it or --format out")
			}
			return g.do(func(rt *runtime.Runtime) error {
				u, err := rt.DiskUsage(cmd.Context())
				if err != nil {
					return err
				}
				if verbose {
					return printUsage(u)
				}
				return list(&stdout, f, usageRows(u), []string{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}, func(r usageRow) []string {
					return []string{r.Type, strconv.Itoa(r.Total), strconv.Itoa(r.Active), size(r.Size), size(r.Reclaimable)}
				})
			})
		},
	}
	addFormat[usageRow](c, &f, "", "{{.Type}} {{.Size}}")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "each image, box and volume")
	return c
}

func usageRows(u runtime.DiskUsage) []usageRow {
	images := usageRow{Type: "Images", Size: u.Images.Total, Reclaimable: u.Images.Reclaimable}
	seen := map[oci.Digest]bool{}
	for _, i := range u.Images.Images {
		if seen[i.Image.Digest] {
			continue
		}
		seen[i.Image.Digest] = true
		images.Total++
		if len(i.Uses) > 0 {
			images.Active++
		}
	}
	boxes := usageRow{Type: "Boxes", Total: len(u.Boxes)}
	for _, b := range u.Boxes {
		n := b.Disk + b.Logs
		boxes.Size += n
		if b.Info.Status.IsActive() {
			boxes.Active++
		}
		if b.Info.Status.IsStopped() {
			boxes.Reclaimable += n
		}
	}
	volumes := usageRow{Type: "Volumes", Total: len(u.Volumes)}
	for _, v := range u.Volumes {
		volumes.Size += v.Size
		if len(v.Info.Boxes) > 0 {
			volumes.Active++
		} else {
			volumes.Reclaimable += v.Size
		}
	}
	return []usageRow{images, boxes, volumes,
		{Type: "Kernels", Total: u.KernelCount, Active: u.KernelCount - u.UnusedKernelCount, Size: u.Kernels, Reclaimable: u.UnusedKernels},
		{Type: "Downloads", Size: u.Images.Unfinished, Reclaimable: u.Images.Unfinished}}
}

// printUsage is the long form.
func printUsage(u runtime.DiskUsage) error {
	w := tabwriter.NewWriter(&stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tDIGEST\tSHARED\tUNIQUE\tUSED BY")
	for _, i := range u.Images.Images {
		var by []string
		for _, use := range i.Uses {
			by = append(by, use.By)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", imageName(i.Image), i.Image.Digest.Short(), size(i.Shared), size(i.Unique), strings.Join(by, ", "))
	}
	fmt.Fprintln(w, "\nBOX\tNAME\tSTATUS\tDISK\tLOGS")
	for _, b := range u.Boxes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.Info.ID, b.Info.Name, b.Info.Status, size(b.Disk), size(b.Logs))
	}
	fmt.Fprintln(w, "\nVOLUME\tSIZE\tUSED BY")
	for _, v := range u.Volumes {
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.Info.Name, size(v.Size), strings.Join(v.Info.Boxes, ", "))
	}
	fmt.Fprintf(w, "\nKernels:\t%s\n", size(u.Kernels))
	fmt.Fprintf(w, "Unfinished downloads:\t%s\n", size(u.Images.Unfinished))
	return w.Flush()
}
