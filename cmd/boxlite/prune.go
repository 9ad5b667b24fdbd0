package main

import (
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// pruneCommand is `boxlite prune` and `boxlite system prune`.
func pruneCommand(g *globalOptions) *cobra.Command {
	var all, force, volumes bool
	c := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove stopped boxes, unused images and other leftovers",
		Long: `Removes all stopped boxes with their disks, images that no name leads to any
more, downloads that were given up, and kernels of other versions; with -a all
images that no box is made from. Volumes stay; with --volumes those go whose names
were made up and that no box names any more. Asks first; in a pipe it needs -f.`,
		Example: `  boxlite prune
  boxlite prune -a -f`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := []string{"all stopped boxes, with their disks", "all images without a name", "downloads that were given up", "kernels that are not in use"}
			if all {
				what[1] = "all images that no box is made from"
			}
			if volumes {
				what = append(what, "anonymous volumes that no box names, with their content")
			}
			if err := confirm(called(cmd), force, "This removes:\n  - "+strings.Join(what, "\n  - ")+"\nGo on?"); err != nil {
				return err
			}
			return prune(cmd, g, runtime.PruneOptions{Boxes: true, AllImages: all, Volumes: volumes})
		},
	}
	pruneFlags(c, &all, &force)
	c.Flags().BoolVar(&volumes, "volumes", false, "also anonymous volumes that no box names")
	return c
}

func pruneImagesCommand(g *globalOptions) *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove images that are not in use",
		Long: `Removes images that no name leads to any more, and downloads that were given up;
with -a all images that no box is made from. Asks first; in a pipe it needs -f.`,
		Example: `  boxlite image prune
  boxlite image prune -a -f`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := []string{"all images without a name", "downloads that were given up", "kernels that are not in use"}
			if all {
				what[0] = "all images that no box is made from"
			}
			if err := confirm(called(cmd), force, "This removes:\n  - "+strings.Join(what, "\n  - ")+"\nGo on?"); err != nil {
				return err
			}
			return prune(cmd, g, runtime.PruneOptions{AllImages: all})
		},
	}
	pruneFlags(c, &all, &force)
	return c
}

func pruneFlags(c *cobra.Command, all, force *bool) {
	c.Flags().BoolVarP(all, "all", "a", false, "all images that no box is made from, not just those without a name")
	c.Flags().BoolVarP(force, "force", "f", false, "do not ask")
}

func prune(cmd *cobra.Command, g *globalOptions, o runtime.PruneOptions) error {
	return g.do(func(rt *runtime.Runtime) error {
		rep, err := rt.Prune(cmd.Context(), o)
		for _, b := range rep.Boxes {
			say("Box:", strings.TrimSpace(string(b.ID)+" "+b.Name))
		}
		for _, v := range rep.Volumes {
			say("Volume:", v.Name)
		}
		printRemoved(rep.Images)
		say("Freed:", size(rep.Freed))
		return err
	})
}
