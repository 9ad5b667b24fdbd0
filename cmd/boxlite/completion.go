package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// shells are those with a completion script.
var shells = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash":       func(c *cobra.Command, w io.Writer) error { return c.GenBashCompletionV2(w, true) },
	"zsh":        (*cobra.Command).GenZshCompletion,
	"fish":       func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) },
	"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
}

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes command lines",
		Long: `Prints the script that lets a shell complete boxlite's commands, flags, and the
names of boxes and images. Have the shell read it when it starts.`,
		Example: `  boxlite completion bash >~/.local/share/bash-completion/completions/boxlite
  boxlite completion zsh >"${fpath[1]}/_boxlite"
  boxlite completion fish >~/.config/fish/completions/boxlite.fish
  boxlite completion powershell >>$PROFILE`,
		ValidArgs: slices.Sorted(maps.Keys(shells)),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && shells[args[0]] != nil {
				return nil
			}
			return errors.New("completion: name one shell: bash, zsh, fish or powershell")
		},
		RunE: func(c *cobra.Command, args []string) error { return shells[args[0]](c.Root(), &stdout) },
	}
}

// completionLimit ends a completion: who types must not wait for it.
const completionLimit = 2 * time.Second

// completer says what the arguments of a command are.
type completer struct {
	boxes   func(runtime.BoxStatus) bool // that it takes; nil: it takes images
	volumes bool                         // it takes volumes
	many    bool                         // any number of them, else just the first argument
	files   bool                         // files as well
	after   string                       // what follows a box's name before it is complete
}

func anyStatus(runtime.BoxStatus) bool { return true }

// beginning are those of the offers that begin with what was typed: not every
// shell looks.
func beginning(offers []string, typed string) []string {
	return slices.DeleteFunc(offers, func(s string) bool { return !strings.HasPrefix(s, typed) })
}

// fixed completes a flag with one of some words.
func fixed(words ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return beginning(slices.Clone(words), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completers has the commands that take boxes or images, by name.
var completers = map[string]completer{
	"attach":  {boxes: runtime.BoxStatus.IsRunning},
	"exec":    {boxes: runtime.BoxStatus.IsRunning},
	"inspect": {boxes: anyStatus, many: true},
	"kill":    {boxes: runtime.BoxStatus.IsActive, many: true},
	"logs":    {boxes: anyStatus},
	"rename":  {boxes: anyStatus},
	"restart": {boxes: anyStatus, many: true},
	"rm":      {boxes: anyStatus, many: true},
	"start":   {boxes: runtime.BoxStatus.CanStart, many: true},
	"stats":   {boxes: runtime.BoxStatus.IsRunning, many: true},
	"stop":    {boxes: runtime.BoxStatus.IsActive, many: true},
	"top":     {boxes: runtime.BoxStatus.IsRunning},

	"port":     {boxes: runtime.BoxStatus.IsRunning},
	"port ls":  {boxes: runtime.BoxStatus.IsRunning},
	"port add": {boxes: runtime.BoxStatus.IsRunning},
	"port rm":  {boxes: runtime.BoxStatus.IsRunning},
	"wait":     {boxes: anyStatus, many: true},

	"network log": {boxes: anyStatus},

	"cp": {boxes: anyStatus, many: true, files: true, after: ":"},

	"create":        {files: true},
	"image inspect": {many: true},
	"image ls":      {},
	"image pull":    {files: true},
	"image rm":      {many: true},
	"image save":    {many: true},
	"images":        {},
	"pull":          {files: true},
	"rmi":           {many: true},
	"run":           {files: true},
	"save":          {many: true},

	"volume inspect": {volumes: true, many: true},
	"volume rm":      {volumes: true, many: true},
}

// completeArguments gives a command, and those below it, their completion.
func completeArguments(c *cobra.Command, g *globalOptions) {
	for _, sub := range c.Commands() {
		completeArguments(sub, g)
	}
	_, path, _ := strings.Cut(c.CommandPath(), " ")
	how, ok := completers[path]
	switch {
	case c.ValidArgsFunction != nil || len(c.ValidArgs) > 0:
	case ok:
		c.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 && !how.many {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			directive := cobra.ShellCompDirectiveNoFileComp
			if how.files {
				directive = cobra.ShellCompDirectiveDefault
			}
			if how.volumes {
				return beginning(completeVolumes(c.Context(), g, args), typed), directive
			}
			if how.boxes == nil {
				return beginning(completeImages(c.Context(), g), typed), directive
			}
			if how.after != "" {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
			return beginning(completeBoxes(c.Context(), g, how, args), typed), directive
		}
	case c.Args != nil && c.Args(c, []string{"x"}) != nil: // it takes none
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
}

// forCompletion opens a home that is there already. Whatever is wrong with it is
// nothing that somebody who presses the tab key wants to read.
func forCompletion(ctx context.Context, g *globalOptions, do func(context.Context, *runtime.Runtime)) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	home := g.home
	if home == "" {
		home = os.Getenv("BOXLITE_HOME")
	}
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return
		}
		home = filepath.Join(user, ".boxlite")
	}
	if _, err := os.Stat(home); err != nil {
		return
	}
	rt, err := runtime.New(runtime.Options{HomeDir: home})
	if err != nil {
		return
	}
	defer rt.Close()
	do(ctx, rt)
}

// completeBoxes are the names of boxes, or the ids of those without, except the
// ones that are given already.
func completeBoxes(ctx context.Context, g *globalOptions, how completer, given []string) (out []string) {
	have := make(map[string]bool, len(given))
	for _, s := range given {
		have[s] = true
	}
	forCompletion(ctx, g, func(ctx context.Context, rt *runtime.Runtime) {
		boxes, err := rt.ListInfo(ctx)
		if err != nil {
			return
		}
		for _, b := range boxes {
			if id := string(b.ID); how.boxes(b.Status) && !have[id] && !have[b.Name] {
				out = append(out, cobra.CompletionWithDesc(orElse(b.Name, id)+how.after, string(b.Status)+", "+b.Image))
			}
		}
	})
	return out
}

// completeVolumes are the names of volumes, except those that are given already.
func completeVolumes(ctx context.Context, g *globalOptions, given []string) (out []string) {
	forCompletion(ctx, g, func(ctx context.Context, rt *runtime.Runtime) {
		list, err := rt.Volumes(ctx)
		if err != nil {
			return
		}
		for _, v := range list {
			if !slices.Contains(given, v.Name) {
				out = append(out, v.Name)
			}
		}
	})
	return out
}

// completeImages are the references in the store.
func completeImages(ctx context.Context, g *globalOptions) (out []string) {
	forCompletion(ctx, g, func(ctx context.Context, rt *runtime.Runtime) {
		store, err := rt.Images()
		if err != nil {
			return
		}
		for img, err := range store.Images(ctx) {
			if err != nil {
				return
			}
			if img.Reference != "" {
				out = append(out, img.Reference)
			}
		}
	})
	return out
}
