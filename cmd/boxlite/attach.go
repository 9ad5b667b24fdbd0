package main

import (
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func attachCommand(g *globalOptions) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	c := &cobra.Command{
		Use:   "attach [flags] BOX",
		Short: "Join the command of a running box",
		Long: `Shows what the box's command wrote lately and what it writes from now on, and
gives it standard input if the box was made with -i. The exit code is the
command's. The box goes on when boxlite is killed, and, in a terminal, when the
detach keys are typed.`,
		Example: `  boxlite attach web
  boxlite attach --no-stdin web | grep error`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := parseDetachKeys("attach", detachKeys)
			if err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				ctx := cmd.Context()
				b, err := rt.Get(ctx, args[0])
				if err != nil {
					return err
				}
				rows, cols := terminalSize(anyTerminal())
				at, err := b.Attach(ctx, runtime.AttachOptions{Backlog: true, Stdin: !noStdin, Rows: rows, Cols: cols})
				if err != nil {
					return err
				}
				if sigProxy {
					defer forwardSignals(ctx, at)()
				}
				result, err := stream(ctx, at, streamOptions{
					stdin: !noStdin, tty: at.TTY(), keepStdin: true, keys: keys, leave: at.Detach,
				})
				if errors.Is(err, errLeft) {
					return sayLeft(b)
				} else if err != nil {
					return err
				}
				return resultCode(result)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "leave the command's standard input alone")
	f.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the command")
	f.StringVar(&detachKeys, "detach-keys", defaultDetachKeys, `keys that leave the box running, in a terminal; "" for none`)
	return c
}
