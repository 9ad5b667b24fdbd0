package main

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// TestPortOfBox is docker's form, whose word may be meant for a command.
func TestPortOfBox(t *testing.T) {
	do, _ := madeBoxes(t)
	r := do("port", "web")
	require.Equal(t, exitSome, r.code)
	require.Equal(t, do("port", "ls", "web"), r, "it is the same command")
	require.Contains(t, r.stderr, "start it first")
	require.Equal(t, result{"", "boxlite: port: no box has the id or name \"gone\", and there is no command \"port gone\": see boxlite port --help\n", exitSome}, do("port", "gone"))
	require.Contains(t, do("port", "lst").stderr, `there is no command "port lst": did you mean ls? see boxlite port --help`)
	require.Equal(t, exitFailed, do("port", "--format", "{{.Nope}}", "web").code)
	require.Contains(t, complete(t, "port", ""), "add")
}

// TestPortsTo has one port of a box, of which there may be several here.
func TestPortsTo(t *testing.T) {
	ports := []runtime.PortSpec{
		{HostIP: "127.0.0.1", HostPort: 1, GuestPort: 80, Protocol: runtime.PortTCP}, {HostIP: "127.0.0.1", HostPort: 2, GuestPort: 80, Protocol: runtime.PortUDP},
		{HostIP: "::1", HostPort: 3, GuestPort: 80, Protocol: runtime.PortTCP}, {HostIP: "127.0.0.1", HostPort: 4, GuestPort: 81, Protocol: runtime.PortTCP},
	}
	for word, want := range map[string][]string{"80": {"127.0.0.1:1", "[::1]:3"}, "80/tcp": {"127.0.0.1:1", "[::1]:3"}, "80/UDP": {"127.0.0.1:2"}, "82": nil} {
		p, err := parseBoxPort(word)
		require.NoError(t, err, word)
		var got []string
		for _, p := range portsTo(ports, p) {
			got = append(got, hostAddress(p))
		}
		require.Equal(t, want, got, word)
	}
	do, _ := madeBoxes(t)
	require.Equal(t, do("port", "web"), do("port", "web", "80"), "it does not run")
}
