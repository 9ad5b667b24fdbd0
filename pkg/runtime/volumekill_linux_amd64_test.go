package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/killtest"
	"github.com/stretchr/testify/require"
)

// TestVolumesKilled kills whoever makes or removes volumes before each change that it
// makes to any file.
func TestVolumesKilled(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	base := filepath.Join(t.TempDir(), "home")
	volumeHome(t, base)
	rt, err := New(Options{HomeDir: base})
	require.NoError(t, err)
	before := volumesOf(t, rt, nil)
	require.NoError(t, rt.Close())
	for op := range volumeOps {
		t.Run(op, func(t *testing.T) {
			// run does it in a copy of the home, as far as it gets.
			run := func(n int) (home string, killed, done bool) {
				dir := t.TempDir()
				home = filepath.Join(dir, "home")
				require.NoError(t, os.CopyFS(home, os.DirFS(base)))
				var files []*os.File
				for _, name := range []string{"stdout", "stderr"} {
					f, err := os.Create(filepath.Join(dir, name))
					require.NoError(t, err)
					defer f.Close()
					files = append(files, f)
				}
				cmd := exec.Command(exe)
				cmd.Env = append(os.Environ(), volumeKillEnv+"="+home+"|"+op)
				cmd.Stdout, cmd.Stderr = files[0], files[1]
				killed, err := killtest.Run(cmd, n)
				said, rerr := os.ReadFile(files[1].Name())
				require.NoError(t, rerr)
				require.NoError(t, err, "%s", said)
				out, err := os.ReadFile(files[0].Name())
				require.NoError(t, err)
				return home, killed, len(out) > 0
			}
			moments, acknowledged := 0, 0
			for n := 0; ; n++ {
				home, killed, done := run(n)
				checkVolumes(t, home, op, done, before)
				if !killed {
					require.True(t, done)
					break
				}
				moments++
				if done {
					acknowledged++
				}
			}
			t.Logf("killed at %d moments, of which %d came after it was done", moments, acknowledged)
			require.GreaterOrEqual(t, moments, 3)
		})
	}
}
