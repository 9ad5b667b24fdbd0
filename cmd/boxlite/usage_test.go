package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// TestWrongUsage looks for what is right in the errors of wrong command lines.
func TestWrongUsage(t *testing.T) {
	for args, want := range map[string]string{
		"stop":                       "stop: too few arguments: boxlite stop [flags] BOX...",
		"rename one":                 "rename: too few arguments: boxlite rename BOX NAME [flags]",
		"rename a b c":               `rename: "c" is one argument too many: boxlite rename BOX NAME [flags]`,
		"ls web":                     `ls: "web" is one argument too many: boxlite ls [flags]`,
		"rm":                         "rm: no box named: boxlite rm BOX..., or boxlite rm --all",
		"completion":                 "completion: name one shell: bash, zsh, fish or powershell",
		"ls --nope":                  "ls: unknown flag: --nope: see boxlite ls --help",
		"stop -t soon web":           `stop: --timeout "soon": want a whole number: see boxlite stop --help`,
		"ls -n 99999999999999999999": `ls: --last "99999999999999999999": want a smaller number: see boxlite ls --help`,
		"ls --all=maybe":             `ls: --all "maybe": want true or false: see boxlite ls --help`,
		"--nope":                     "unknown flag: --nope: see boxlite --help",
		"rnu":                        `there is no command "rnu": did you mean rm or rmi or run? see boxlite --help`,
		"xyzzy":                      `there is no command "xyzzy": see boxlite --help`,
		"help rnu":                   `there is no command "rnu": did you mean rm or rmi or run? see boxlite --help`,
		"help stop nothing":          `there is no command "stop nothing": see boxlite stop --help`,
	} {
		r := output(t, strings.Fields(args)...)
		require.Equal(t, exitFailed, r.code, args)
		require.Empty(t, r.stdout, args)
		require.Contains(t, r.stderr, want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
}

// TestGroupUsage has a word that is no command below one that only holds others.
func TestGroupUsage(t *testing.T) {
	sub := &cobra.Command{Use: "save [flags] IMAGE", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }}
	group := &cobra.Command{Use: "image", Args: cobra.NoArgs, RunE: sub.RunE, SilenceErrors: true, SilenceUsage: true}
	group.AddCommand(sub)
	root := &cobra.Command{Use: "boxlite", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(group)
	explainUsage(root)
	for args, want := range map[string]string{
		"image sav":      `there is no command "image sav": did you mean save? see boxlite image --help`,
		"image s":        `there is no command "image s": did you mean save? see boxlite image --help`,
		"image ab":       `there is no command "image ab": see boxlite image --help`,
		"image save":     "save: too few arguments: boxlite image save [flags] IMAGE",
		"image save a b": `save: "b" is one argument too many: boxlite image save [flags] IMAGE`,
	} {
		root.SetArgs(strings.Fields(args))
		require.EqualError(t, root.Execute(), want)
	}
}

func TestHelpCommand(t *testing.T) {
	for _, args := range [][]string{{"help", "stop"}, {"stop", "--help"}} {
		c := root()
		var out strings.Builder
		c.SetOut(&out)
		c.SetArgs(args)
		require.NoError(t, c.Execute())
		for _, part := range []string{"Usage:\n  boxlite stop [flags] BOX...", "boxlite stop -t 60 db", "--timeout int"} {
			require.Contains(t, out.String(), part, args)
		}
	}
	require.Equal(t, []string{"rename", "restart"}, complete(t, "help", "re"))
	require.Empty(t, complete(t, "help", "stop", ""))
}
