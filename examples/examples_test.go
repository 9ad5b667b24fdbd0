// Package examples_test runs the example programs as their readers would.
package examples_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// testTimeout ends an example that hangs. It says nothing about speed: the rig is slow.
const testTimeout = 5 * time.Minute

// TestGuestExamples runs each program, on a home of its own, and compares all it prints.
func TestGuestExamples(t *testing.T) {
	busybox, python := machinetest.Image(t, "busybox"), machinetest.Image(t, "debian-python")
	for name, c := range map[string]struct {
		image string
		want  []string // of one run after the other
	}{
		"quickstart": {busybox, []string{"hello from Linux\nexit code 3\n"}},
		"streaming":  {busybox, []string{"got line 1\ngot line 2\ngot line 3\nstderr: done\nexit code 0\n"}},
		"concurrent": {busybox, []string{"box 0\nbox 1\nbox 2\n"}},
		"detached":   {busybox, []string{"started detached-example\n", "it wrote: working\nstill detached-example\nstopping detached-example\n"}},
		"agentloop": {python, []string{"turn 0: code 0, timed out false: saved\n" +
			"turn 1: code 1, timed out false: ValueError: invalid literal for int() with base 10: ' '\n" +
			"turn 2: code 0, timed out false: 6\n" +
			"turn 3: code -15, timed out true: \n" +
			"turn 4: code 0, timed out false: still here\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			for _, want := range c.want {
				ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
				defer cancel()
				cmd := exec.CommandContext(ctx, machinetest.Example(t, name), c.image)
				cmd.Env = append(os.Environ(), "BOXLITE_HOME="+home)
				var stderr tail
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				require.NoError(t, err, "%s", stderr)
				require.Equal(t, want, string(out), "%s", stderr)
			}
			left, err := filepath.Glob(filepath.Join(home, "boxes", "*"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// tail is what a program wrote to standard error.
type tail []byte

func (t *tail) Write(p []byte) (int, error) { *t = append(*t, p...); return len(p), nil }
