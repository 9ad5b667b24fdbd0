package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// commandFlags are the flags of whatever runs a command in a box.
type commandFlags struct {
	env         []string
	workdir     string
	user        string
	interactive bool
	tty         bool
}

func (o *commandFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.SetInterspersed(false) // flags after the command are the command's
	f.StringArrayVarP(&o.env, "env", "e", nil, "set NAME=VALUE, or pass NAME on from here")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory in the box (default: the image's)")
	f.StringVarP(&o.user, "user", "u", "", "name|uid[:group|gid] (default: the image's)")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "connect standard input")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
}

// check refuses -it where nobody could type.
func (o *commandFlags) check(what string) error {
	if o.tty && o.interactive && !isTerminal(os.Stdin) {
		return fmt.Errorf("%s: -it needs a terminal as standard input; leave -t out in a pipe", what)
	}
	return nil
}

// checkWorkdir refuses a folder that no box can tell from another.
func (o *commandFlags) checkWorkdir(what string) error {
	if o.workdir != "" && !strings.HasPrefix(o.workdir, "/") {
		return fmt.Errorf("%s: -w %q: want an absolute path, such as %s", what, o.workdir, path.Join("/", o.workdir))
	}
	return nil
}

// boxFlags are the flags that describe a new box.
type boxFlags struct {
	commandFlags
	cpus       int
	memory     int
	disk       int
	remove     bool
	name       string
	rootfs     string
	entrypoint string
	labels     []string
	network    networkFlags
	volumes    volumeFlags

	root    runtime.RootfsSpec
	command []string
}

func (o *boxFlags) add(c *cobra.Command) {
	o.commandFlags.add(c)
	f := c.Flags()
	f.IntVar(&o.cpus, "cpus", runtime.DefaultCPUs, "number of CPUs")
	f.VarP(newSizeFlag(&o.memory, 'm', runtime.DefaultMemoryMiB), "memory", "m", "memory, as 512m or 1.5g; a plain number is MiB")
	f.Var(newSizeFlag(&o.disk, 'g', 0), "disk-size", "size of the writable disk, as 20g; a plain number is GiB (default 10g; takes space as it is used)")
	f.BoolVar(&o.remove, "rm", false, "remove the box when it stops")
	f.StringVar(&o.name, "name", "", "name of the box")
	f.StringVar(&o.rootfs, "rootfs", "", "boot from a prepared root filesystem: a folder with the files, or an OCI layout")
	f.StringVar(&o.entrypoint, "entrypoint", "", `program to run in place of the image's entrypoint; "" for none`)
	o.network.add(c)
	o.volumes.add(c)
	f.StringArrayVarP(&o.labels, "label", "l", nil, "label the box with NAME=VALUE, or NAME")
}

// options are those of the box that flags and arguments describe.
func (o *boxFlags) options(c *cobra.Command, args []string) (runtime.BoxOptions, error) {
	what := c.Name()
	var none runtime.BoxOptions
	if o.rootfs == "" {
		if len(args) == 0 {
			return none, fmt.Errorf("%s: no image given: boxlite %s IMAGE [COMMAND...]; see boxlite %s --help", what, what, what)
		}
		if args[0] == "" {
			return none, fmt.Errorf("%s: the image's name is empty", what)
		}
		o.root, args = runtime.Image(args[0]), args[1:]
		if len(args) > 0 && args[0] == "--" {
			args = args[1:] // from habit; no program is called that
		}
	} else {
		if err := checkRootfs(o.rootfs, args); err != nil {
			return none, fmt.Errorf("%s: %w", what, err)
		}
		o.root = runtime.RootfsPath(o.rootfs)
	}
	o.command = args
	if err := o.checkSizes(c); err != nil {
		return none, err
	}
	if err := o.checkWorkdir(what); err != nil {
		return none, err
	}
	env, err := parseEnv(what, o.env)
	if err != nil {
		return none, err
	}
	labels, err := parseLabels(what, o.labels)
	if err != nil {
		return none, err
	}
	if err := checkArgs(what, o.command); err != nil {
		return none, err
	}
	main := &runtime.MainCommand{Args: o.command, TTY: o.tty, Stdin: o.interactive}
	if c.Flags().Changed("entrypoint") {
		main.Entrypoint = []string{}
		if o.entrypoint != "" {
			main.Entrypoint = []string{o.entrypoint}
		}
	}
	network, ports, err := o.network.spec(what)
	if err != nil {
		return none, err
	}
	volumes, tmpfs, err := o.volumes.spec(what)
	if err != nil {
		return none, err
	}
	return runtime.BoxOptions{
		Network: network, Ports: ports, Volumes: volumes, Tmpfs: tmpfs,
		CPUs: o.cpus, MemoryMiB: o.memory, DiskSizeGB: o.disk, Rootfs: o.root, Env: env, Labels: labels,
		WorkingDir: o.workdir, User: o.user, KeepOnStop: !o.remove, Main: main,
	}, nil
}

// checkSizes refuses what no box can have, in the units that the flags have.
func (o *boxFlags) checkSizes(c *cobra.Command) error {
	if o.cpus < 1 || o.cpus > runtime.MaxCPUs {
		return fmt.Errorf("%s: --cpus %d: choose 1 to %d", c.Name(), o.cpus, runtime.MaxCPUs)
	}
	for _, f := range []struct {
		name        string
		least, most int
	}{{"memory", runtime.MinMemoryMiB, runtime.MaxMemoryMiB}, {"disk-size", 1, runtime.MaxDiskSizeGB}} {
		if size, ok := c.Flag(f.name).Value.(*sizeFlag); ok {
			if err := size.check(f.least, f.most); err != nil {
				return fmt.Errorf("%s: --%s %w", c.Name(), f.name, err)
			}
		}
	}
	return nil
}

// imageKinds are what only the name of an image begins with.
var imageKinds = []string{"oci:", "oci-archive:", "docker-archive:"}

// checkRootfs looks at a --rootfs, and at what there is where an image would be.
func checkRootfs(folder string, args []string) error {
	if len(args) > 0 && slices.ContainsFunc(imageKinds, func(k string) bool { return strings.HasPrefix(args[0], k) }) {
		return errors.New("--rootfs and an image: leave one of them out")
	}
	switch fi, err := os.Stat(folder); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--rootfs %s: there is no such folder", folder)
	case err != nil: // whoever reads it says why not
	case !fi.IsDir():
		return fmt.Errorf("--rootfs %s: it is not a folder; give an archive as an image", folder)
	}
	return nil
}

// checkArgs refuses what no program can be given.
func checkArgs(what string, args []string) error {
	if len(args) > 0 && args[0] == "" {
		if what == "exec" {
			return errors.New("exec: the command is empty: boxlite exec BOX COMMAND [ARG...]")
		}
		return errors.New(what + ": the command is empty; leave it out for the image's own")
	}
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("%s: argument %q holds a NUL", what, a)
		}
	}
	return nil
}

func parseEnv(what string, list []string) ([]runtime.EnvVar, error) {
	var out []runtime.EnvVar
	for _, s := range list {
		name, value, given := strings.Cut(s, "=")
		if name == "" {
			return nil, fmt.Errorf("%s: -e %q: want NAME=VALUE or NAME", what, s)
		}
		if !given {
			var set bool
			if value, set = os.LookupEnv(name); !set {
				continue // as docker does: nothing to pass on
			}
		}
		out = append(out, runtime.EnvVar{Name: name, Value: value})
	}
	return out, nil
}

func parseLabels(what string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(list))
	for _, s := range list {
		name, value, _ := strings.Cut(s, "=")
		if name == "" {
			return nil, fmt.Errorf("%s: --label %q: want NAME=VALUE or NAME", what, s)
		}
		out[name] = value
	}
	return out, nil
}
