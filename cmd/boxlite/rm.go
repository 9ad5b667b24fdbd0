package main

import (
	"errors"
	"fmt"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func removeCommand(g *globalOptions) *cobra.Command {
	var force, all, volumes bool
	c := &cobra.Command{
		Use:   "rm [flags] BOX...",
		Short: "Remove boxes and their disks",
		Long: `Removes boxes, named by id, by its first 4 characters or more, or by name, with
their disks and logs, and prints what was removed. A running box is left alone unless
-f kills it first; with -f a box that is not there is told of, but no failure.
Folders of this machine and volumes with names of their own stay, whatever else
goes; so do anonymous volumes without -v.

With --all it is every box of the home directory. That asks first, on a
terminal; elsewhere it needs -f.`,
		Example: `  boxlite rm job
  boxlite rm -f web db
  boxlite rm $(boxlite ls -q --filter status=stopped)
  boxlite rm --all`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("rm: --all is every box: name none")
			case !all && len(args) == 0:
				return errors.New("rm: no box named: boxlite rm BOX..., or boxlite rm --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				if all {
					boxes, err := rt.ListInfo(cmd.Context())
					if err != nil || len(boxes) == 0 {
						return err
					}
					if err := confirm("rm", force, fmt.Sprintf("Remove all %d boxes with their disks?", len(boxes))); err != nil {
						return err
					}
					for _, b := range boxes {
						args = append(args, string(b.ID))
					}
				}
				ctx, stop := untilSignal(cmd.Context())
				defer stop()
				return onBoxes(ctx, args, func(name string) error {
					err := rt.RemoveWith(ctx, name, runtime.RemoveOptions{Force: force, Volumes: volumes})
					if force && errors.Is(err, runtime.ErrNotFound) {
						warn(err) // as docker does
						return errNothingDone
					}
					return stillRuns(ctx, rt, name, err)
				})
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&force, "force", "f", false, "kill running boxes first, and do not ask")
	f.BoolVarP(&volumes, "volumes", "v", false, "remove the anonymous volumes that were made for them, too")
	f.BoolVarP(&all, "all", "a", false, "every box there is")
	return c
}
