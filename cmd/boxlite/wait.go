package main

import (
	"strconv"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func waitCommand(g *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "wait BOX...",
		Short: "Wait until boxes have stopped",
		Long: `Waits for one box after the other and prints the exit code of each one's
command: 128+n when signal n ended it. A box that has stopped before is not
waited for.`,
		Example: `  boxlite wait $(boxlite run -d alpine sleep 10)`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				return onEach(cmd.Context(), rt, args, func(b *runtime.LiteBox) (string, error) {
					r, err := b.Wait(cmd.Context())
					if err != nil {
						return "", err
					}
					return strconv.Itoa(r.ShellCode()), nil
				})
			})
		},
	}
}
