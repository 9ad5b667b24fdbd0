package runtime

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// timeProgram runs the boxlite program b.N times and returns what it printed last.
func timeProgram(b *testing.B, home string, args ...string) string {
	program := machinetest.Boxlite(b)
	var total time.Duration
	var text []byte
	for i := range b.N + 1 {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "BOXLITE_HOME="+home)
		cmd.Stderr = os.Stderr
		start := time.Now()
		var err error
		text, err = cmd.Output()
		took := time.Since(start)
		require.NoError(b, err)
		if i > 0 { // the first brings the program into the page cache
			total += took
		}
	}
	vms(b, total, "vms")
	return string(text)
}

// BenchmarkVersion is `boxlite version`, which is what starting the program costs.
func BenchmarkVersion(b *testing.B) {
	require.Contains(b, timeProgram(b, b.TempDir(), "version"), "boxlite ")
}

// BenchmarkListBoxes is `boxlite ls -a` in a home of 200 boxes.
func BenchmarkListBoxes(b *testing.B) {
	machinetest.Need(b)
	const boxes = 200
	home := b.TempDir()
	rt, err := New(Options{HomeDir: home})
	require.NoError(b, err)
	for range boxes {
		_, err := rt.Create(b.Context(), BoxOptions{
			KeepOnStop: true, Labels: map[string]string{"kind": "job"}, Env: []EnvVar{{"A", "1"}, {"B", "2"}},
			Main: &MainCommand{Args: []string{"sh", "-c", "echo hello"}},
		}, "")
		require.NoError(b, err)
	}
	require.NoError(b, rt.Close())
	require.Equal(b, boxes+1, strings.Count(timeProgram(b, home, "ls", "-a"), "\n"))
}
