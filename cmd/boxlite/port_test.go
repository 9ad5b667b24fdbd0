package main

import (
	"testing"

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
