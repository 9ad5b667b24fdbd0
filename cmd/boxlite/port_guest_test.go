package main

import (
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// TestGuestPortCommand adds, lists and removes ports of a box that runs, and goes wrong
// with each.
func TestGuestPortCommand(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	call := func(args ...string) result {
		t.Helper()
		return runProgram(t, program(t, home, args...))
	}
	r := call(with("run", "-d", "--rm", "--name", "web", small, "-p", "80", machinetest.Image(t, "busybox"), "sleep", "1000")...)
	require.Zero(t, r.code, r.stderr)
	first := strings.TrimSpace(call("port", "--format", "{{.HostIP}}:{{.HostPort}}", "web").stdout)
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, first)
	r = call("port", "add", "web", "53/udp")
	require.Zero(t, r.code, r.stderr)
	second := strings.TrimSpace(r.stdout)
	require.Regexp(t, `^HOST +BOX\n`+first+` +80/tcp\n`+second+` +53/udp\n$`, call("port", "web").stdout)
	require.Equal(t, call("port", "ls", "web"), call("port", "web"))
	require.Equal(t, result{first + "\n", "", 0}, call("port", "web", "80"))
	require.Equal(t, result{second + "\n", "", 0}, call("port", "web", "53/udp"))
	require.Equal(t, result{"", "boxlite: port: nothing leads to port 53/tcp of box web: boxlite port web lists what does\n", exitSome}, call("port", "web", "53"))

	r = call("port", "add", "web", first+":81")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "port "+first+"/tcp of the host is in use by box web: choose another, or 0 for any")
	r = call("port", "rm", "web", "127.0.0.1:1:1")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "port 127.0.0.1:1->1/tcp does not lead to it: those that do are "+first+"->80/tcp, "+second+"->53/udp\n")
	require.Equal(t, result{}, call("port", "rm", "web", second+":53/udp"))
	require.NotContains(t, call("port", "web").stdout, second)

	r = call(with("run", "--name", "web", small, machinetest.Image(t, "busybox"), "true")...)
	require.Equal(t, result{"", "boxlite: run: there is a box web already, and it is running: boxlite attach web joins its command, boxlite rm -f web kills and removes it\n", exitFailed}, r)
	require.Equal(t, result{"web\n", "", 0}, call("rm", "-f", "web"))
	requireNothingLeft(t, home)
}
