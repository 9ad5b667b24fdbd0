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
		"rnu":                        `there is no command "rnu": did you mean run? see boxlite --help`,
		"xyzzy":                      `there is no command "xyzzy": see boxlite --help`,
		"help rnu":                   `there is no command "rnu": did you mean run? see boxlite --help`,
		"help stop nothing":          `there is no command "stop nothing": see boxlite stop --help`,

		"volume creat":         `there is no command "volume creat": did you mean create? see boxlite volume --help`,
		"volume delete x":      `there is no command "volume delete": did you mean rm? see boxlite volume --help`,
		"volume foo":           `there is no command "volume foo": choose create, inspect, ls, prune or rm; see boxlite volume --help`,
		"image foo":            `there is no command "image foo": choose inspect, load, ls, prune, pull, rm or save; see boxlite image --help`,
		"system fd":            `there is no command "system fd": did you mean df? see boxlite system --help`,
		"volume rm":            "volume rm: too few arguments: boxlite volume rm [flags] VOLUME...",
		"volume ls x":          `volume ls: "x" is one argument too many: boxlite volume ls [flags]`,
		"volume ls --nope":     "volume ls: unknown flag: --nope: see boxlite volume ls --help",
		"volume create --labl": "volume create: unknown flag: --labl: did you mean --label? see boxlite volume create --help",
		"port add web":         "port add: too few arguments: boxlite port add BOX [[IP:]HOSTPORT:]PORT[/tcp|/udp]",
		"port web 80 81":       `port: "81" is one argument too many: boxlite port [flags] BOX [PORT[/tcp|/udp]]`,
		"port web http":        `port: PORT "http": want PORT[/tcp|/udp]`,
		"port web 8080:80":     `port: "8080:80": want PORT[/tcp|/udp]`,
		"port web 80/sctp":     `port: "80/sctp": there is no protocol "sctp": choose tcp or udp`,

		"create --env-file x y": "create: there is no --env-file: give -e NAME=VALUE for each\n",
		"run -P x":              "run: there is no -P: give -p PORT for each\n",
		"run --restart=no x":    "run: there is no --restart: boxlite start starts a box again\n",
		"ls --hostname x":       "ls: unknown flag: --hostname: see boxlite ls --help",
		"container ls":          `there is no command "container": leave the word out: boxlite ls`,

		"run --net none x":     "run: unknown flag: --net: did you mean --network? see boxlite run --help",
		"run --memory-mb 5 x":  "run: unknown flag: --memory-mb: did you mean --memory? see boxlite run --help",
		"run --mem=5 x":        "run: unknown flag: --mem: did you mean --memory? see boxlite run --help",
		"run --cpu 1 x":        "run: unknown flag: --cpu: did you mean --cpus? see boxlite run --help",
		"create --wrokdir / x": "create: unknown flag: --wrokdir: did you mean --workdir? see boxlite create --help",
		"run --port 80:80 x":   "run: unknown flag: --port: did you mean --publish? see boxlite run --help",
		"run --allow a.com x":  "run: unknown flag: --allow: did you mean --allow-host, --allow-net or --allow-private? see boxlite run --help",
		"run -name web x":      "run: unknown shorthand flag: 'n' in -name: did you mean --name? see boxlite run --help",
		"run -rm x":            "run: unknown shorthand flag: 'r' in -rm: did you mean --rm? see boxlite run --help",
		"run -x y":             "run: unknown shorthand flag: 'x' in -x: see boxlite run --help",
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
	group := &cobra.Command{Use: "image", RunE: sub.RunE, SilenceErrors: true, SilenceUsage: true}
	group.AddCommand(sub)
	root := &cobra.Command{Use: "boxlite", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(group)
	explainUsage(root)
	for args, want := range map[string]string{
		"image sav":      `there is no command "image sav": did you mean save? see boxlite image --help`,
		"image s":        `there is no command "image s": did you mean save? see boxlite image --help`,
		"image ab":       `there is no command "image ab": choose save; see boxlite image --help`,
		"image save":     "image save: too few arguments: boxlite image save [flags] IMAGE",
		"image save a b": `image save: "b" is one argument too many: boxlite image save [flags] IMAGE`,
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
