package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func listCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	var f format
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
			if quiet {
				for _, b := range boxes {
					fmt.Println(b.ID)
				}
				return nil
			}
			return list(os.Stdout, f, boxes, []string{"ID", "NAME", "IMAGE", "STATUS", "CREATED"}, func(b runtime.BoxInfo) []string {
				return []string{string(b.ID), b.Name, b.Image, string(b.Status), age(b.CreatedAt)}
			})
		},
	}
	f.add(c)
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
