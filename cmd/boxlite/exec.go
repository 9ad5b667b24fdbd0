package main

import (
	"errors"
	"fmt"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func execCommand(g *globalOptions) *cobra.Command {
	var o commandFlags
	var detach bool
	var detachKeys string
	c := &cobra.Command{
		Use:   "exec [flags] BOX COMMAND [ARG...]",
		Short: "Run a command in a running box",
		Long: `Runs another command in a box that runs. Output, signals and exit codes are as
with boxlite run, except that a box that is not there, or does not run, is 1.
The box goes on when the command ends. With -d the command runs in the
background, connected to nothing, and its id is printed.

A command lives no longer than the boxlite exec that it belongs to, unless -d is
given. Typing the detach keys with -it therefore ends boxlite and kills the
command with all that it started, where docker would let it run on: nobody could
join it again.`,
		Example: `  boxlite exec -it web sh
  boxlite exec -u postgres db psql -c 'select 1'`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := args[0], args[1:]
			if len(args) > 1 && args[0] == "--" {
				args = args[1:]
			}
			env, err := parseEnv("exec", o.env)
			if err != nil {
				return err
			}
			keys, err := parseDetachKeys("exec", detachKeys)
			if err != nil {
				return err
			}
			if err := checkArgs("exec", args); err != nil {
				return err
			}
			if err := o.checkWorkdir("exec"); err != nil {
				return err
			}
			if !detach {
				if err := o.check("exec"); err != nil {
					return err
				}
			}
			command := runtime.Command(args[0], args[1:]...).User(o.user).WorkingDir(o.workdir).WithStdin(o.interactive)
			for _, e := range env {
				command = command.Env(e.Name, e.Value)
			}
			if o.tty {
				command = command.TTY(true)
				if rows, cols := terminalSize(anyTerminal()); rows > 0 && cols > 0 {
					command = command.WithTTY(rows, cols)
				}
			}
			if detach {
				command = command.Detached()
			}
			return g.do(func(rt *runtime.Runtime) error { return execIn(cmd, rt, name, command, &o, detach, keys) })
		},
	}
	o.add(c)
	f := c.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "run in the background and print the command's id")
	f.StringVar(&detachKeys, "detach-keys", defaultDetachKeys, `keys that end boxlite and the command, with -it; "" for none`)
	return c
}

func execIn(cmd *cobra.Command, rt *runtime.Runtime, name string, command runtime.BoxCommand, o *commandFlags, detach bool, keys []byte) error {
	ctx := cmd.Context()
	boot, stopBoot := untilSignal(ctx)
	defer stopBoot()
	b, err := rt.Get(boot, name)
	if err != nil {
		return err
	}
	if i, err := b.Info(boot); err != nil {
		return err
	} else if !i.Status.IsRunning() { // Run would start it, as a child of this program
		return fmt.Errorf("exec: box %s is %s: start it first", name, i.Status)
	}
	ex, err := b.Run(boot, command)
	if err != nil {
		return interrupted(boot, commandFailed(err))
	}
	if detach {
		say(ex.ID())
		return nil
	}
	defer forwardSignals(ctx, ex)()
	stopBoot()
	result, err := stream(ctx, ex, streamOptions{stdin: o.interactive, tty: o.tty, keys: keys, leave: func() error { return nil }})
	if errors.Is(err, errLeft) {
		return nil
	} else if err != nil {
		return err
	}
	return resultCode(result)
}
