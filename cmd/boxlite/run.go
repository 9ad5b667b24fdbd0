package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// runOptions are the flags of `boxlite run`.
type runOptions struct {
	boxFlags
	detach     bool
	detachKeys string
	timings    bool
}

func runCommand(g *globalOptions) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command in a new box",
		Long: `Boots a box from IMAGE and runs its entrypoint with COMMAND, or with the
image's own command when none is given. The box stops when the command ends.
Output is streamed byte for byte, signals are passed on, and the exit code is
the command's: 128+n when signal n ended it, 127 when it was not found, 126 when
it could not be executed, 125 when boxlite itself could not do what was asked.
Other commands have 1 for that; see boxlite --help.

With -d the box runs in the background, and its id is printed; see boxlite logs,
attach, wait and stop. With -it, typing ctrl-p ctrl-q leaves a box running.

IMAGE is a name in a registry (docker.io unless it says otherwise), or an OCI
layout folder or image archive: its path, or oci:DIR[:TAG], oci-archive:FILE,
docker-archive:FILE. It is pulled when it is not in the store. With --rootfs
there is no IMAGE.`,
		Example: `  boxlite run alpine echo hello
  boxlite run -it --rm python:3.12 python
  echo 'print(6*7)' | boxlite run -i --rm python:3.12 python -
  boxlite run -d --name web -m 1g --cpus 4 -p 8080:80 nginx
  boxlite run --rm -v ./src:/src:ro -v cache:/root/.cache -w /src golang go test ./...
  boxlite run --rm --rootfs ./rootfs -- /bin/sh -c 'id'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := o.options(cmd, args)
			if err != nil {
				return err
			}
			opts.Detach = o.detach
			return run(cmd.Context(), g, &o, opts)
		},
	}
	o.add(c)
	f := c.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "run in the background and print the box's id")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, `keys that leave a box running, with -it; "" for none`)
	f.BoolVar(&o.timings, "timings", false, "print when each phase was done to standard error, in ns of CLOCK_MONOTONIC")
	return c
}

func run(ctx context.Context, g *globalOptions, o *runOptions, opts runtime.BoxOptions) (err error) {
	keys, err := parseDetachKeys("run", o.detachKeys)
	if err != nil {
		return err
	}
	if !o.detach {
		if err := o.check("run"); err != nil {
			return err
		}
	}
	rt, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	defer func() { err = errors.Join(err, rt.Close()) }()

	// Until the command runs, an interrupt ends what is being done here.
	boot, stopBoot := untilSignal(ctx)
	defer stopBoot()
	box, err := rt.Create(boot, opts, o.name)
	if err != nil {
		return interrupted(boot, nameTaken(boot, rt, "run", o.name, err))
	}
	var ran bool
	defer func() {
		if !ran { // a box that never ran its command is of no use to anybody
			if rerr := rt.RemoveWith(ctx, string(box.ID()), runtime.RemoveOptions{Force: true, Volumes: true, MadeVolumes: true}); !errors.Is(rerr, runtime.ErrNotFound) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	if o.detach {
		if err := box.Start(boot); err != nil {
			return interrupted(boot, commandFailed(err))
		}
		ran = true
		done()
		say(box.ID())
		return nil
	}
	rows, cols := 0, 0
	if o.tty {
		rows, cols = terminalSize(anyTerminal())
	}
	at, err := box.Attach(boot, runtime.AttachOptions{Start: true, Stdin: o.interactive, Rows: rows, Cols: cols})
	if err != nil {
		return interrupted(boot, commandFailed(err))
	}
	ran = true
	done()                          // the progress display ends before the command's output begins
	defer forwardSignals(ctx, at)() // before the handler of the boot goes, so that none falls between
	if s := signalOf(boot); s != 0 {
		late, cancel := context.WithTimeout(ctx, callLimit)
		_ = at.Signal(late, guestSignal(s)) // it came while the command started; one that has ended needs none
		cancel()
	}
	stopBoot()
	result, err := stream(ctx, at, streamOptions{
		stdin: o.interactive, tty: o.tty, keys: keys,
		leave: func() error {
			if err := box.Detach(ctx); err != nil {
				return err
			}
			return at.Detach()
		},
	})
	if errors.Is(err, errLeft) {
		return sayLeft(box)
	} else if err != nil {
		return errors.Join(err, box.Stop(ctx))
	}
	// The command's own end is what counts, whatever becomes of the box.
	if _, werr := box.Wait(ctx); werr != nil && !errors.Is(werr, runtime.ErrNotFound) {
		warn(werr)
	}
	if o.timings {
		for _, t := range box.Timings() {
			fmt.Fprintf(os.Stderr, "timing %s %d\n", t.Phase, t.At)
		}
	}
	return resultCode(result)
}
