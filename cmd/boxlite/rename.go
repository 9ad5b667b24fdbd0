package main

import (
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func renameCommand(g *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "rename BOX NAME",
		Short: "Give a box another name",
		Long: `Gives a box, named by id, by its first 4 characters or more, or by name, another
name. It may run; its host name inside changes when it starts next. A name that
another box has is refused, and so is the beginning of another box's id.`,
		Example: `  boxlite rename web old-web`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := runtime.CheckName(args[1]); err != nil {
				return plain("rename", err)
			}
			return g.do(func(rt *runtime.Runtime) error {
				var failed failures
				failed.add(rt.Rename(cmd.Context(), args[0], args[1]))
				return failed.code()
			})
		},
	}
}
