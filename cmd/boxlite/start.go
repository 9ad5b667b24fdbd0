package main

import (
	"context"
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func startCommand(g *globalOptions) *cobra.Command {
	var attached, interactive bool
	var detachKeys string
	c := &cobra.Command{
		Use:   "start [flags] BOX...",
		Short: "Start boxes that do not run",
		Long: `Starts boxes, named by id, by its first 4 characters or more, or by name, and
prints what was started. Each runs its command again, in the background. With -a the
output of one box is shown, signals are passed on, and the exit code is the
command's; the box goes on if boxlite itself is killed.`,
		Example: `  boxlite start web db
  boxlite start -a job`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			attached = attached || interactive
			if attached && len(args) > 1 {
				return errors.New("start: -a and -i are for one box")
			}
			keys, err := parseDetachKeys("start", detachKeys)
			if err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				boot, stop := untilSignal(cmd.Context())
				defer stop()
				if attached {
					return startAttached(cmd.Context(), boot, stop, rt, args[0], interactive, keys)
				}
				return onEach(boot, rt, args, func(b *runtime.LiteBox) (string, error) {
					if err := b.Start(boot); err != nil {
						return "", interrupted(boot, commandFailed(err))
					}
					return "", leaveRunning(cmd.Context(), b)
				})
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&attached, "attach", "a", false, "show the output, and end with the command's exit code")
	f.BoolVarP(&interactive, "interactive", "i", false, "connect standard input, for boxes made with -i; implies -a")
	f.StringVar(&detachKeys, "detach-keys", defaultDetachKeys, `keys that leave the box running, in a terminal; "" for none`)
	return c
}

// leaveRunning lets a box outlive this program. One that has ended needs that no more.
func leaveRunning(ctx context.Context, b *runtime.LiteBox) error {
	err := b.Detach(ctx)
	if errors.Is(err, runtime.ErrInvalidState) || errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	return err
}

func startAttached(ctx, boot context.Context, stopBoot func(), rt *runtime.Runtime, name string, interactive bool, keys []byte) error {
	b, err := rt.Get(boot, name)
	if err != nil {
		return err
	}
	rows, cols := terminalSize(anyTerminal())
	at, err := b.Attach(boot, runtime.AttachOptions{Start: true, Stdin: interactive, Rows: rows, Cols: cols})
	if err != nil {
		return interrupted(boot, commandFailed(err))
	}
	if err := leaveRunning(ctx, b); err != nil {
		return err
	}
	defer forwardSignals(ctx, at)()
	stopBoot()
	result, err := stream(ctx, at, streamOptions{stdin: interactive, tty: at.TTY(), keys: keys, leave: at.Detach})
	if errors.Is(err, errLeft) {
		return sayLeft(b)
	} else if err != nil {
		return err
	}
	if _, werr := b.Wait(ctx); werr != nil && !errors.Is(werr, runtime.ErrNotFound) {
		warn(werr)
	}
	return resultCode(result)
}
