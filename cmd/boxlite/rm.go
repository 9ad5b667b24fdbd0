package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func removeCommand(g *globalOptions) *cobra.Command {
	var force, all bool
	c := &cobra.Command{
		Use:   "rm [flags] BOX...",
		Short: "Remove boxes and their disks",
		Long: `Removes boxes, named by id, by the beginning of an id, or by name, with their
disks and logs, and prints what was removed. A running box is left alone unless
-f kills it first; with -f a box that is not there is no failure either.

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
			return onRuntime(g, func(rt *runtime.Runtime) error {
				if all {
					boxes, err := rt.ListInfo(cmd.Context())
					if err != nil || len(boxes) == 0 {
						return err
					}
					if err := sureToRemoveAll(force, len(boxes)); err != nil {
						return err
					}
					for _, b := range boxes {
						args = append(args, string(b.ID))
					}
				}
				ctx, stop := untilSignal(cmd.Context())
				defer stop()
				return onBoxes(ctx, args, func(name string) error {
					err := rt.Remove(ctx, name, force)
					if force && errors.Is(err, runtime.ErrNotFound) {
						warn(err)
						return nil
					}
					return err
				})
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&force, "force", "f", false, "kill running boxes first, and do not ask")
	f.BoolVarP(&all, "all", "a", false, "every box there is")
	return c
}

// sureToRemoveAll asks on a terminal. Where there is none only force goes on.
func sureToRemoveAll(force bool, n int) error {
	switch {
	case force:
		return nil
	case !isTerminal(os.Stdin):
		return errors.New("rm: nobody can be asked here: add -f to remove all boxes without a question")
	}
	fmt.Fprintf(os.Stderr, "Remove all %d boxes with their disks? [y/N] ", n)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n') // no answer is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("rm: nothing was removed")
}
