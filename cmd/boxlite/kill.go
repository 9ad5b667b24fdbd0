package main

import (
	"context"
	"fmt"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// sigKill is Linux's, as the guest has it on every host.
const sigKill = 9

func killCommand(g *globalOptions) *cobra.Command {
	var signal string
	c := &cobra.Command{
		Use:   "kill [flags] BOX...",
		Short: "Kill running boxes, or send their commands a signal",
		Long: `Kills everything in each box at once and stops it: there is no grace, but the
disk is left in order. With another signal, by name or number, it is sent to the
box's command and its process group, and the box goes on unless that ends the
command. Prints the boxes that were reached.`,
		Example: `  boxlite kill web
  boxlite kill -s HUP proxy`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := runtime.ParseSignal(signal)
			if err != nil {
				return fmt.Errorf("kill: -s: %w", err)
			}
			return g.do(func(rt *runtime.Runtime) error {
				ctx, stop := untilSignal(cmd.Context())
				defer stop()
				return onHandles(ctx, rt, args, func(b *runtime.LiteBox) error {
					if number != sigKill {
						return b.Signal(ctx, number)
					}
					if i, err := b.Info(ctx); err != nil {
						return err
					} else if !i.Status.IsActive() {
						return fmt.Errorf("kill: box %s is %s, not running: there is nothing to kill", b, i.Status)
					}
					return kill(ctx, b)
				})
			})
		},
	}
	c.Flags().StringVarP(&signal, "signal", "s", "KILL", "signal to send: a name such as HUP, or a number")
	_ = c.RegisterFlagCompletionFunc("signal", fixed("KILL", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT", "WINCH"))
	return c
}

// kill ends a box at once. Its command gets SIGKILL before anything else, so that
// nothing of it runs once more; the rest is a stop without grace, which also ends
// a VM that no longer listens, if a little later.
func kill(ctx context.Context, b *runtime.LiteBox) error {
	short, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_ = b.Signal(short, sigKill) // a box may have no command, or one that has just ended
	return b.StopWith(ctx, 0)
}
