package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// grace is the -t flag of what stops boxes.
type grace struct{ seconds int }

func (g *grace) add(f *pflag.FlagSet) {
	f.IntVarP(&g.seconds, "timeout", "t", 10, "seconds until what still runs is killed")
	f.IntVar(&g.seconds, "time", 10, "")
	_ = f.MarkHidden("time") // docker's old name of it
}

func (g *grace) check(what string) error {
	if g.seconds < 0 || int64(g.seconds) > int64(maxGrace/time.Second) {
		return fmt.Errorf("%s: -t %d: want 0 to %d seconds", what, g.seconds, maxGrace/time.Second)
	}
	return nil
}

// maxGrace keeps sums of times far from overflow; it is more than anybody waits.
const maxGrace = 30 * 24 * time.Hour

func (g *grace) duration() time.Duration { return time.Duration(g.seconds) * time.Second }

func stopCommand(g *globalOptions) *cobra.Command {
	var wait grace
	c := &cobra.Command{
		Use:   "stop [flags] BOX...",
		Short: "Stop running boxes",
		Long: `Stops boxes, named by id, by its first 4 characters or more, or by name, and
prints what was stopped. A box's command gets the image's stop signal and everything else in
the box SIGTERM; what still runs after the timeout is killed. Disks are kept,
except those of boxes that were made with --rm, which go with their boxes. A box
that does not run is left as it is.`,
		Example: `  boxlite stop web
  boxlite stop -t 60 db
  boxlite stop $(boxlite ls -q)`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wait.check("stop"); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				ctx, stop := untilSignal(cmd.Context())
				defer stop()
				return onHandles(ctx, rt, args, func(b *runtime.LiteBox) error { return b.StopWith(ctx, wait.duration()) })
			})
		},
	}
	wait.add(c.Flags())
	return c
}

func restartCommand(g *globalOptions) *cobra.Command {
	var wait grace
	c := &cobra.Command{
		Use:   "restart [flags] BOX...",
		Short: "Stop boxes and start them again",
		Long: `Stops boxes as boxlite stop does and starts them again in the background, each
with its command and its disk as it was. A box that does not run is started. One
that was made with --rm is removed when it stops and cannot be restarted.`,
		Example: `  boxlite restart web
  boxlite restart -t 0 web db`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wait.check("restart"); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				ctx, stop := untilSignal(cmd.Context())
				defer stop()
				return onHandles(ctx, rt, args, func(b *runtime.LiteBox) error {
					return restart(ctx, cmd.Context(), b, wait.duration())
				})
			})
		},
	}
	wait.add(c.Flags())
	return c
}

// restart boots a box until boot is done; from then on it is on its own.
func restart(boot, ctx context.Context, b *runtime.LiteBox, wait time.Duration) error {
	i, err := b.Info(boot)
	if err != nil {
		return err
	}
	if i.Status.IsActive() && !b.Options().KeepOnStop {
		return errors.New("restart: box " + b.String() + " was made to be removed when it stops: run it anew instead")
	}
	if err := b.StopWith(boot, wait); err != nil {
		return err
	}
	if err := b.Start(boot); err != nil {
		return commandFailed(err)
	}
	return leaveRunning(ctx, b)
}
