package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

func volumeCommand(g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:     "volume COMMAND",
		Aliases: []string{"volumes"},
		Short:   "Create, list, inspect and remove volumes",
		Long: `Volumes are folders in boxlite's home that boxes mount by name, and that outlive
them: boxlite run -v NAME:PATH.`,
		Example: `  boxlite volume create data
  boxlite run -v data:/srv alpine touch /srv/f
  boxlite volume ls
  boxlite volume rm data`,
		RunE: showHelp,
	}
	c.AddCommand(createVolumeCommand(g), listVolumesCommand(g), inspectVolumeCommand(g), removeVolumeCommand(g), pruneVolumesCommand(g))
	return c
}

func createVolumeCommand(g *globalOptions) *cobra.Command {
	var labels []string
	c := &cobra.Command{
		Use:   "create [flags] [NAME]",
		Short: "Create a volume",
		Long: `Creates a volume and prints its name. Without NAME one of 64 hexadecimal digits is
made up. One that is there already is left as it is.`,
		Example: `  boxlite volume create data
  boxlite volume create --label job=build cache`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := runtime.VolumeOptions{}
			if len(args) > 0 {
				if o.Name = args[0]; o.Name == "" {
					return fmt.Errorf("%s: the volume's name is empty; leave it out to have one made up", called(cmd))
				}
			}
			var err error
			if o.Labels, err = parseLabels(called(cmd), labels); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				v, err := rt.CreateVolume(cmd.Context(), o)
				if errors.Is(err, runtime.ErrInvalidArgument) {
					return &exitError{exitFailed, plain(called(cmd), err)}
				} else if err != nil {
					return err
				}
				say(v.Name)
				return nil
			})
		},
	}
	c.Flags().StringArrayVarP(&labels, "label", "l", nil, "label the volume with NAME=VALUE, or NAME")
	return c
}

func listVolumesCommand(g *globalOptions) *cobra.Command {
	var quiet bool
	var f format
	var filters []string
	c := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long: `Lists volumes by name, with the boxes that name them, whether those run or not.
The fields of a template are those of boxlite volume inspect.

A --filter is name=TEXT (part of it), dangling=true|false (named by no box), or
label=NAME[=VALUE]; a volume has to pass all of them.`,
		Example: `  boxlite volume ls
  boxlite volume ls -q --filter dangling=true
  boxlite volume ls --format '{{.Name}} {{.Mountpoint}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keep, err := volumeFilter(called(cmd), filters)
			if err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				all, err := rt.Volumes(cmd.Context())
				if err != nil {
					return err
				}
				volumes := all[:0]
				for _, v := range all {
					if keep(v) {
						volumes = append(volumes, v)
					}
				}
				if quiet {
					for _, v := range volumes {
						say(v.Name)
					}
					return nil
				}
				return list(&stdout, f, volumes, []string{"NAME", "CREATED", "BOXES"}, func(v runtime.VolumeInfo) []string {
					return []string{v.Name, age(v.CreatedAt), strings.Join(v.Boxes, ", ")}
				})
			})
		},
	}
	addFormat[runtime.VolumeInfo](c, &f, "", "{{.Name}} {{.Mountpoint}}")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	c.Flags().StringArrayVarP(&filters, "filter", "f", nil, "list only volumes with this: see above")
	_ = c.RegisterFlagCompletionFunc("filter", completeVolumeFilter)
	return c
}

func completeVolumeFilter(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	offers := []string{"name=", "dangling=true", "dangling=false", "label="}
	return beginning(offers, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// volumeFilter makes one test of the --filter flags.
func volumeFilter(what string, filters []string) (func(runtime.VolumeInfo) bool, error) {
	var wanted tests[runtime.VolumeInfo]
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case ok && key == "name" && value != "":
			wanted = append(wanted, func(v runtime.VolumeInfo) bool { return strings.Contains(v.Name, value) })
		case ok && key == "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, fmt.Errorf("%s: --filter %q: want true or false", what, f)
			}
			wanted = append(wanted, func(v runtime.VolumeInfo) bool { return (len(v.Boxes) == 0) == want })
		case ok && key == "label" && value != "":
			wanted = append(wanted, func(v runtime.VolumeInfo) bool { return hasLabel(v.Labels, value) })
		default:
			return nil, fmt.Errorf("%s: --filter %q: want name=TEXT, dangling=true|false or label=NAME[=VALUE]", what, f)
		}
	}
	return wanted.pass, nil
}

func inspectVolumeCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "inspect [flags] VOLUME...",
		Short: "Show all that is known of volumes, as JSON",
		Long: `Prints a JSON array with an object for each volume: its folder on this machine
(Mountpoint), its labels, and the boxes that name it. With --format each volume is
a line of JSON, or goes through a Go template. Volumes that are not there are told
of on standard error, and the exit code is 1 then.`,
		Example: `  boxlite volume inspect data
  boxlite volume inspect -f '{{.Mountpoint}}' data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f == "table" {
				return errors.New("volume inspect: --format table: there is none: see boxlite volume ls")
			}
			return g.do(func(rt *runtime.Runtime) error {
				var failed failures
				found := []runtime.VolumeInfo{}
				for _, name := range args {
					v, err := rt.GetVolume(cmd.Context(), name)
					if err != nil {
						failed.add(err)
						continue
					}
					found = append(found, v)
				}
				var err error
				if f == "" {
					e := json.NewEncoder(&stdout)
					e.SetEscapeHTML(false)
					e.SetIndent("", "    ")
					err = e.Encode(found)
				} else {
					err = list(&stdout, f, found, nil, nil)
				}
				if err != nil {
					return err
				}
				return failed.code()
			})
		},
	}
	c.Flags().StringVarP((*string)(&f), "format", "f", "", `json (an object per line), or a Go template such as '{{.Mountpoint}}' (default: a JSON array)`)
	_ = c.RegisterFlagCompletionFunc("format", fixed("json"))
	checkFormat[runtime.VolumeInfo](c, &f)
	return c
}

func removeVolumeCommand(g *globalOptions) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "rm [flags] VOLUME...",
		Aliases: []string{"remove"},
		Short:   "Remove volumes and all that is in them",
		Long: `Removes volumes with their content, and prints their names. A volume that a box
names, whether it runs or not, is left alone: remove the box first. With -f a
volume that is not there is no failure.`,
		Example: `  boxlite volume rm data
  boxlite volume rm $(boxlite volume ls -q --filter label=job=build)`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(func(rt *runtime.Runtime) error {
				var failed failures
				for _, name := range args {
					err := rt.RemoveVolume(cmd.Context(), name)
					switch {
					case err == nil, force && errors.Is(err, runtime.ErrNotFound):
						say(name)
					default:
						failed.add(err)
					}
				}
				return failed.code()
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "volumes that are not there are no failure")
	return c
}

func pruneVolumesCommand(g *globalOptions) *cobra.Command {
	var all, force bool
	var filters []string
	c := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove volumes that no box names",
		Long: `Removes volumes whose names were made up and that no box names; with -a all volumes
that no box names. A --filter label=NAME[=VALUE] takes only those with that label.
Asks first; in a pipe it needs -f.`,
		Example: `  boxlite volume prune
  boxlite volume prune -a -f --filter label=job`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keep, err := volumeFilter(called(cmd), filters)
			if err != nil {
				return err
			}
			what := "anonymous volumes that no box names"
			if all {
				what = "all volumes that no box names"
			}
			if err := confirm(called(cmd), force, "This removes "+what+", with their content.\nGo on?"); err != nil {
				return err
			}
			return g.do(func(rt *runtime.Runtime) error {
				rep, err := rt.PruneVolumes(cmd.Context(), runtime.VolumePruneOptions{All: all, Match: keep})
				for _, v := range rep.Volumes {
					say("Volume:", v.Name)
				}
				say("Freed:", size(rep.Freed))
				return err
			})
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also volumes with names of their own")
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	c.Flags().StringArrayVar(&filters, "filter", nil, "only volumes with label=NAME[=VALUE] or name=TEXT")
	_ = c.RegisterFlagCompletionFunc("filter", completeVolumeFilter)
	return c
}
