package main

import (
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func createCommand(g *globalOptions) *cobra.Command {
	var o boxFlags
	c := &cobra.Command{
		Use:   "create [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Make a box without starting it",
		Long: `Makes a box as boxlite run does, pulls its image if need be, and prints its id.
boxlite start starts it.`,
		Example: `  boxlite create --name job alpine sh -c 'echo hello'
  boxlite start -a job
  boxlite create --name web -p 8080:80 -v ./site:/usr/share/nginx/html:ro nginx`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := o.options(cmd, args)
			if err != nil {
				return err
			}
			opts.Detach = true // it belongs to nobody's process
			return g.do(func(rt *runtime.Runtime) error {
				boot, stop := untilSignal(cmd.Context())
				defer stop()
				box, err := rt.Create(boot, opts, o.name)
				if err != nil {
					return interrupted(boot, nameTaken(boot, rt, "create", o.name, err))
				}
				if err := box.Pull(boot); err != nil {
					return errors.Join(interrupted(boot, err), rt.RemoveWith(cmd.Context(), string(box.ID()), runtime.RemoveOptions{Force: true, Volumes: true, MadeVolumes: true}))
				}
				say(box.ID())
				return nil
			})
		},
	}
	o.add(c)
	return c
}
