package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// runOptions are the flags of `boxlite run`.
type runOptions struct {
	env         []string
	workdir     string
	user        string
	interactive bool
	tty         bool
	cpus        int
	memory      int
	disk        int
	remove      bool
	name        string
	rootfs      string
	timings     bool
}

func runCommand(g *globalOptions) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command in a new box",
		Long: `Boots a box from IMAGE and runs its entrypoint with COMMAND, or with the
image's own command when none is given. Output is streamed byte for byte,
signals are passed on, and the exit code is the command's: 128+n when signal n
ended it, 127 when it was not found, 126 when it could not be executed, 125
when boxlite itself could not do what was asked.

IMAGE is a name in a registry (docker.io unless it says otherwise), or an OCI
layout folder or image archive: its path, or oci:DIR[:TAG], oci-archive:FILE,
docker-archive:FILE. It is pulled when it is not in the store. With --rootfs
there is no IMAGE.`,
		Example: `  boxlite run alpine echo hello
  boxlite run -it --rm python:3.12 python
  echo 'print(6*7)' | boxlite run -i --rm python:3.12 python -
  boxlite run --rm --rootfs ./rootfs -- /bin/sh -c 'id'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.rootfs == "" {
				if len(args) == 0 {
					return errors.New("run: no image given: boxlite run IMAGE [COMMAND...]; see boxlite run --help")
				}
				return run(cmd.Context(), g, &o, runtime.Image(args[0]), args[1:])
			}
			return run(cmd.Context(), g, &o, runtime.RootfsPath(o.rootfs), args)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.StringArrayVarP(&o.env, "env", "e", nil, "set NAME=VALUE, or pass NAME on from here")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory in the box (default: the image's)")
	f.StringVarP(&o.user, "user", "u", "", "name|uid[:group|gid] (default: the image's)")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "connect standard input")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.IntVar(&o.cpus, "cpus", runtime.DefaultCPUs, "number of CPUs")
	f.IntVar(&o.memory, "memory", runtime.DefaultMemoryMiB, "memory in MiB")
	f.IntVar(&o.disk, "disk-size", 0, "size of the writable disk in GiB (default 10; takes space as it is used)")
	f.BoolVar(&o.remove, "rm", false, "remove the box when it stops")
	f.StringVar(&o.name, "name", "", "name of the box")
	f.BoolVar(&o.timings, "timings", false, "print when each phase was done to standard error, in ns of CLOCK_MONOTONIC")
	f.StringVar(&o.rootfs, "rootfs", "", "boot from a prepared root filesystem: a folder with the files, or an OCI layout")
	return c
}

func run(ctx context.Context, g *globalOptions, o *runOptions, root runtime.RootfsSpec, args []string) (err error) {
	for _, n := range []struct {
		flag string
		zero bool
	}{{"cpus", o.cpus == 0}, {"memory", o.memory == 0}} {
		if n.zero {
			return fmt.Errorf("run: --%s 0: a box needs at least one", n.flag)
		}
	}
	env, err := parseEnv(o.env)
	if err != nil {
		return err
	}
	if o.tty && !isTerminal(os.Stdin) {
		return errors.New("run: -t needs a terminal as standard input; leave it out in a pipe")
	}
	if err := checkArgs(args); err != nil {
		return err
	}
	rt, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	defer func() { err = errors.Join(err, rt.Close()) }()

	// Until the command runs, an interrupt ends what is being done here.
	boot, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer cancel()
	box, err := rt.Create(boot, runtime.BoxOptions{
		CPUs: o.cpus, MemoryMiB: o.memory, DiskSizeGB: o.disk, Rootfs: root, Env: env,
		WorkingDir: o.workdir, User: o.user, KeepOnStop: !o.remove,
	}, o.name)
	if err != nil {
		return err
	}
	var ran bool
	defer func() {
		if !ran { // a box that never ran its command is of no use to anybody
			if rerr := rt.Remove(ctx, box.ID(), true); !errors.Is(rerr, runtime.ErrNotFound) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	cmd, err := box.MainCommand(boot, args...)
	if err != nil {
		return interrupted(boot, err)
	}
	done() // the progress display ends before the command's output begins
	cmd = cmd.WithStdin(o.interactive || o.tty)
	if o.tty {
		rows, cols := terminalSize(os.Stdin)
		cmd = cmd.WithTTY(rows, cols)
	}
	ex, err := box.Run(boot, cmd)
	if err != nil {
		return interrupted(boot, commandFailed(err))
	}
	ran = true
	stopSignals := forwardSignals(ctx, ex) // before the handler of the boot goes, so that none falls between
	defer stopSignals()
	if boot.Err() != nil {
		_ = ex.Signal(ctx, int(unix.SIGINT)) // it came while the command started; one that has ended needs none
	}
	cancel()
	result, err := stream(ctx, ex, o)
	if err = errors.Join(err, box.Stop(ctx)); err != nil {
		return err
	}
	if o.timings {
		for _, t := range box.Timings() {
			fmt.Fprintf(os.Stderr, "timing %s %d\n", t.Phase, t.At)
		}
	}
	return resultCode(result)
}

// stream joins the command to our own standard streams until it ends.
func stream(ctx context.Context, ex *runtime.Execution, o *runOptions) (runtime.ExecResult, error) {
	if o.tty {
		restore, err := rawTerminal(os.Stdin)
		if err != nil {
			return runtime.ExecResult{}, err
		}
		defer restore()
		defer forwardResize(ctx, ex)()
	}
	if stdin := ex.Stdin(); stdin != nil {
		go func() { // ends with the process: a read of standard input cannot be taken back
			_, _ = io.Copy(stdin, os.Stdin) // the command may end, or close its input, first
			stdin.Close()
		}()
	}
	var out sync.WaitGroup
	var outErr, errErr error
	out.Go(func() { outErr = copyOut(os.Stdout, ex.Stdout()) })
	out.Go(func() { errErr = copyOut(os.Stderr, ex.Stderr()) })
	out.Wait()
	result, err := ex.Wait(ctx)
	return result, errors.Join(outErr, errErr, err)
}

func copyOut(to *os.File, from io.Reader) error {
	if from == nil {
		return nil
	}
	_, err := io.Copy(to, from)
	if err == nil {
		return nil
	}
	// Nobody takes the output any more: the command shall hear of it, as it
	// would from a pipe here, and not wait for ever.
	if c, ok := from.(io.Closer); ok {
		c.Close()
	}
	if errors.Is(err, unix.EPIPE) {
		return nil // what becomes of the command then is its own exit code
	}
	return fmt.Errorf("output of the command: %w", err)
}

// resultCode makes the command's end the program's.
func resultCode(r runtime.ExecResult) error {
	if code := r.ShellCode(); code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// commandFailed gives an error of a command that did not start the code of a shell.
func commandFailed(err error) error {
	var cmd *runtime.CommandError
	if errors.As(err, &cmd) {
		return &exitError{code: cmd.ExitCode, err: err}
	}
	return err
}

// interrupted says so when it was the user who ended it.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &exitError{code: 130, err: errors.New("interrupted")}
	}
	return err
}

// checkArgs refuses what no program can be given.
func checkArgs(args []string) error {
	if len(args) > 0 && args[0] == "" {
		return errors.New("run: the command is empty; leave it out for the image's own")
	}
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("run: argument %q holds a NUL", a)
		}
	}
	return nil
}

func parseEnv(list []string) ([]runtime.EnvVar, error) {
	var out []runtime.EnvVar
	for _, s := range list {
		name, value, given := strings.Cut(s, "=")
		if name == "" {
			return nil, fmt.Errorf("run: -e %q: want NAME=VALUE or NAME", s)
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
