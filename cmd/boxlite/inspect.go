package main

import (
	"encoding/json"
	"errors"
	"path/filepath"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// inspected is what `boxlite inspect` shows of a box.
type inspected struct {
	runtime.BoxInfo
	Options     runtime.BoxOptions
	Folder      string // that holds all of it
	ConsolePath string // what its kernel and init printed
}

func inspectCommand(g *globalOptions) *cobra.Command {
	var f format
	c := &cobra.Command{
		Use:   "inspect [flags] BOX...",
		Short: "Show all that is known of boxes",
		Long: `Shows boxes, named by id, by its first 4 characters or more, or by name, as a
JSON array: status, times, and the options each was made with, and the exit code of its
command, 128+n when signal n ended it. With --format each box is a line of JSON,
or goes through a Go template with the same fields. Boxes that are not there are
told of on standard error, and the exit code is 1 then.`,
		Example: `  boxlite inspect web
  boxlite inspect -f '{{.Status}} {{.PID}}' web
  boxlite inspect -f '{{json .Options.Env}}' web db`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f == "table" {
				return errors.New("inspect: --format table: there is none: see boxlite ls")
			}
			return g.do(func(rt *runtime.Runtime) error {
				var failed failures
				found := []inspected{} // of none it is [], not null
				for _, name := range args {
					b, err := rt.Get(cmd.Context(), name)
					if err != nil {
						failed.add(err)
						continue
					}
					i, err := b.Info(cmd.Context())
					if err != nil {
						failed.add(err)
						continue
					}
					console := b.ConsolePath()
					found = append(found, inspected{asShell(i), b.Options(), filepath.Dir(console), console})
				}
				if err := printInspected(f, found); err != nil {
					return err
				}
				return failed.code()
			})
		},
	}
	c.Flags().StringVarP((*string)(&f), "format", "f", "", `json (an object per line), or a Go template such as '{{.Status}}' (default: a JSON array)`)
	_ = c.RegisterFlagCompletionFunc("format", fixed("json"))
	checkFormat[inspected](c, &f)
	return c
}

// asShell makes an exit code that is minus a signal's number what a shell, and all
// that this program prints, has for it: 137 of SIGKILL.
func asShell(i runtime.BoxInfo) runtime.BoxInfo {
	if i.ExitCode != nil {
		code := shellCode(*i.ExitCode)
		i.ExitCode = &code
	}
	return i
}

func printInspected(f format, found []inspected) error {
	if f == "" {
		e := json.NewEncoder(&stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "    ")
		return e.Encode(found)
	}
	return list(&stdout, f, found, nil, nil)
}
