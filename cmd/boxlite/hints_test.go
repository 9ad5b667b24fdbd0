package main

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// TestNameTaken has both ways on from a name that a box has already.
func TestNameTaken(t *testing.T) {
	do, ids := madeBoxes(t)
	for _, command := range []string{"run", "create"} {
		require.Equal(t, result{"", "boxlite: " + command + ": there is a box web already, and it is configured: boxlite start web starts it, boxlite rm web removes it\n", exitFailed},
			do(command, "--name", "web", "nginx"))
	}
	require.Equal(t, result{"", `boxlite: the name "web" belongs to box ` + ids["web"] + ", which is configured: choose another, or remove that box\n", exitSome},
		do("rename", "db", "web"))
	for status, want := range map[runtime.BoxStatus]string{
		runtime.StatusRunning: "boxlite attach web joins its command, boxlite rm -f web kills and removes it",
		runtime.StatusStopped: "boxlite start web starts it, boxlite rm web removes it",
		runtime.StatusUnknown: "boxlite rm web removes it",
	} {
		require.Equal(t, want, waysOn(status, "web"), status)
	}
}
