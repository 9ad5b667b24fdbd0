package main

import (
	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// removeImageCommand is `boxlite rmi` and `boxlite image rm`.
func removeImageCommand(g *globalOptions, use string) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   use + " [flags] IMAGE...",
		Short: "Remove images",
		Long: `Removes images, named by reference, digest or the beginning of a digest, and
frees what no other image needs. An image that a box was made from is refused;
with -f its name goes, and the rest with the last of those boxes.`,
		Example: `  boxlite rmi alpine:3.20
  boxlite rmi $(boxlite images -q)`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				var failed failures
				for _, a := range args {
					removed, err := rt.RemoveImage(cmd.Context(), a, force)
					printRemoved(removed)
					failed.add(err)
				}
				return failed.code()
			})
		},
	}
	if use == "rm" {
		c.Aliases = []string{"remove"}
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "remove all names of an image given by digest, and names of images in use")
	return c
}

func printRemoved(r oci.Removed) {
	for _, ref := range r.Untagged {
		say("Untagged:", ref)
	}
	for _, d := range r.Deleted {
		say("Deleted:", d)
	}
	for _, d := range r.Kept {
		say("Kept for the boxes that use it:", d)
	}
}
