package main

import (
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// TestGuestStopKillRestart does to running boxes what the commands on several do.
func TestGuestStopKillRestart(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	call := func(args ...string) result {
		t.Helper()
		return runProgram(t, program(t, home, args...))
	}
	ups := func(name string) (n int) { // how often its command has begun; "hup" is none
		t.Helper()
		for line := range strings.Lines(call("logs", name).stdout) {
			if line == "up\n" {
				n++
			}
		}
		return n
	}
	waitUp := func(name string, n int) {
		t.Helper()
		require.Eventually(t, func() bool { return ups(name) == n }, time.Minute, 20*time.Millisecond, "%s did not begin %d times", name, n)
	}
	script := `trap 'echo bye; exit 3' TERM; trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done`
	run := func(args ...any) {
		t.Helper()
		r := call(with("run", "-d", small, with(args...), machinetest.Image(t, "busybox"), "sh", "-c", script)...)
		require.Zero(t, r.code, r.stderr)
		name := args[len(args)-1].(string)
		waitUp(name, 1)
	}
	status := func(name string) string {
		t.Helper()
		for line := range strings.Lines(call("ls", "-a").stdout) {
			if f := strings.Fields(line); f[1] == name {
				_, rest, _ := strings.Cut(line, `"`)
				_, rest, _ = strings.Cut(rest, `"`)
				return strings.TrimSpace(rest)
			}
		}
		return ""
	}
	run("--name", "one")
	run("--rm", "--name", "two")
	require.Regexp(t, `^running (\d+ (second|minute)s?|less than a second) `, status("one"))
	require.Equal(t, "two\none\n", call("ls", "--format", "{{.Name}}").stdout)

	require.Equal(t, result{"one\n", "", 0}, call("kill", "-s", "hup", "one"))
	require.Eventually(t, func() bool { return strings.Contains(call("logs", "one").stdout, "hup\n") }, time.Minute, 20*time.Millisecond)
	r := call("restart", "two")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "removed when it stops")

	none := "boxlite: no box has the id or name \"gone\": boxlite ls -a lists them\n"
	require.Equal(t, result{"one\ntwo\n", none, exitSome}, call("stop", "-t", "60", "one", "gone", "two"))
	require.Regexp(t, `^stopped \(3\) .* ago `, status("one"))
	require.Empty(t, status("two"), "it was made with --rm")
	require.True(t, strings.HasSuffix(call("logs", "one").stdout, "bye\n"), "it had its grace")
	require.Empty(t, call("ls", "-q").stdout)

	require.Equal(t, result{"one\n", "", 0}, call("restart", "one"), "of a box that does not run")
	require.Regexp(t, `^running`, status("one"))
	waitUp("one", 2) // before that it has no trap
	require.Equal(t, result{"one\n", "", 0}, call("restart", "-t", "60", "one"))
	waitUp("one", 3)
	require.Equal(t, 2, strings.Count(call("logs", "one").stdout, "bye\n"), call("logs", "one").stdout)
	require.Zero(t, call("exec", "one", "sh", "-c", "echo kept >/kept").code, "written, not synced")
	require.Equal(t, result{"one\n", "", 0}, call("kill", "one"))
	require.Regexp(t, `^stopped \(137\) .* ago `, status("one"))
	require.Equal(t, "137\n", call("inspect", "-f", "{{.ExitCode}}", "one").stdout)
	require.Contains(t, call("events", "--since", "1h", "--until", "0s", "--filter", "box=one", "--filter", "event=die").stdout, "exitCode=137")
	require.Equal(t, 2, strings.Count(call("logs", "one").stdout, "bye\n"), "it had no grace")
	require.Equal(t, exitSome, call("kill", "one").code, "of a box that does not run")

	require.Equal(t, result{"one\n", "", 0}, call("start", "one"))
	require.Equal(t, result{"kept\n", "", 0}, call("exec", "one", "cat", "/kept"), "killing a box leaves its disk in order")
	require.Equal(t, result{}, call("rename", "one", "uno"))
	kinds := strings.Fields(call("events", "--since", "1h", "--until", "0s", "--format", "{{.Kind}}", "--filter", "box=one", "--filter", "box=uno").stdout)
	require.Subset(t, kinds, []string{"create", "start", "kill", "stop", "die", "exec_start", "exec_die", "rename"})
	require.Equal(t, "running\n", call("inspect", "-f", "{{.Status}}", "uno").stdout)
	r = call("rm", "uno")
	require.Equal(t, exitSome, r.code)
	require.Equal(t, "boxlite: rm: box uno is running: boxlite stop uno stops it first, boxlite rm -f uno kills and removes it\n", r.stderr)
	require.Equal(t, result{"uno\n", "", 0}, call("rm", "-f", "uno"))
	requireNothingLeft(t, home)
	require.Equal(t, "true 0\n", call("info", "--format", "{{.Virtualization}} {{.Boxes}}").stdout)
}
