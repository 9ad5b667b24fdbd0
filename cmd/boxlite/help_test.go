package main

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// TestEveryCommandIsExplained holds all commands, also those below others, to
// help, examples and completion.
func TestEveryCommandIsExplained(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		path := c.CommandPath()
		require.NotEmpty(t, c.Short, path)
		require.Equal(t, strings.TrimSuffix(c.Short, "."), c.Short, "%s: no full stop in short help", path)
		require.NotEmpty(t, c.Long, path)
		require.NotEmpty(t, c.Example, "%s: no example", path)
		for line := range strings.Lines(c.Example) {
			require.True(t, strings.HasPrefix(line, "  "), "%s: examples are indented: %q", path, line)
			require.Contains(t, line, "boxlite ", path)
		}
		if c.HasSubCommands() {
			return
		}
		// Registries' names cannot be listed, and layouts are folders.
		if path != "boxlite kernel install" && path != "boxlite kernel push" {
			require.True(t, c.ValidArgsFunction != nil || len(c.ValidArgs) > 0, "%s completes file names", path)
		}
		if f := c.Flag("filter"); f != nil {
			_, ok := c.GetFlagCompletionFunc("filter")
			require.True(t, ok, "%s: --filter has no completion", path)
		}
		if f := c.Flag("format"); f != nil {
			_, ok := c.GetFlagCompletionFunc("format")
			require.True(t, ok, "%s: --format has no completion", path)
			if example := regexp.MustCompile("such as '(.*?)'").FindStringSubmatch(f.Usage); c.Name() != "save" {
				require.NotEmpty(t, example, "%s: --format without an example", path)
				require.NoError(t, f.Value.Set(example[1]))
				require.NoError(t, c.PreRunE(c, nil), path)
			}
		}
	}
	root := root()
	for _, c := range root.Commands() {
		visit(c)
	}
}

// TestExamplesWork parses the flags of every example, which people copy.
func TestExamplesWork(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		for line := range strings.Lines(c.Example) {
			_, call, _ := strings.Cut(line, "boxlite ")
			args := strings.Fields(strings.NewReplacer("'", "", `"`, "").Replace(call))
			if i := slices.IndexFunc(args, func(s string) bool { return strings.ContainsAny(s[:1], "|>$") }); i >= 0 {
				args = args[:i] // the shell's
			}
			fresh := root()
			at, rest, err := fresh.Find(args)
			require.NoError(t, err, line)
			require.NotSame(t, fresh, at, line)
			require.NoError(t, at.ParseFlags(rest), line)
		}
	}
	visit(root())
	for _, name := range []string{"run", "create"} {
		c, _, err := root().Find([]string{name})
		require.NoError(t, err)
		require.Regexp(t, ` -v \S+:\S+ `, c.Example)
		require.Regexp(t, ` -p \d+:\d+ `, c.Example)
	}
}

// TestFlowFields looks for every field of a flow in the help of what shows flows.
func TestFlowFields(t *testing.T) {
	c, _, err := root().Find([]string{"network", "log"})
	require.NoError(t, err)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[flowRow]()) {
		if !f.Anonymous {
			require.Regexp(t, `\b`+f.Name+`\b`, c.Long)
		}
	}
}
