package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func listCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"ps"},
		Short:   "List boxes, running or not",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			defer func() { err = errors.Join(err, rt.Close()) }()
			boxes, err := rt.ListInfo(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 8, 3, ' ', 0)
			if !quiet {
				fmt.Fprintln(w, "ID\tNAME\tIMAGE\tSTATUS\tCREATED")
			}
			for _, b := range boxes {
				if quiet {
					fmt.Fprintln(w, b.ID)
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.ID, b.Name, b.Image, b.Status, age(b.CreatedAt))
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	return c
}

func removeCommand(g *globalOptions) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rm [flags] BOX...",
		Short: "Remove boxes and their disks",
		Long:  "Removes boxes, named by id, by the beginning of an id, or by name. Prints what it removed.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			rt, done, err := g.open()
			if err != nil {
				return err
			}
			defer done()
			defer func() { err = errors.Join(err, rt.Close()) }()
			for _, a := range args {
				if rerr := rt.Remove(cmd.Context(), a, force); rerr != nil {
					err = errors.Join(err, rerr)
					continue
				}
				fmt.Println(a)
			}
			return err
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "stop running boxes first")
	return c
}
