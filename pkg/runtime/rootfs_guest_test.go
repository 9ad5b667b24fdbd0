package runtime

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// TestGuestBoxDefaults is what a box's own options do for its commands, on root
// filesystems that are prepared on the host: an image's layout, and plain files.
func TestGuestBoxDefaults(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	opts := smallBox(t)
	opts.Rootfs = RootfsPath(machinetest.Image(t, "busybox"))
	opts.WorkingDir, opts.User = "/srv/work", "12:34"
	opts.Env = []EnvVar{{"LIKE", "this"}}
	box, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	out, _, _ := output(t, box, sh("pwd; id -u; id -g; echo $LIKE"))
	require.Equal(t, "/srv/work\n12\n34\nthis\n", out)
	out, _, _ = output(t, box, sh("pwd; id -u; echo $LIKE").WorkingDir("/etc").User("0").Env("LIKE", "that"))
	require.Equal(t, "/etc\n0\nthat\n", out, "a command has the last word")

	files := t.TempDir()
	for _, d := range []string{"bin", "etc"} {
		require.NoError(t, os.Mkdir(filepath.Join(files, d), 0o755))
	}
	program, err := os.OpenFile(filepath.Join(files, "bin", "busybox"), os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	ex, err := box.Run(ctx, Command("cat", "/bin/busybox").User("0").WithStdin(false))
	require.NoError(t, err)
	_, err = io.Copy(program, ex.Stdout())
	require.NoError(t, err)
	require.NoError(t, program.Close())
	require.NoError(t, os.Symlink("busybox", filepath.Join(files, "bin", "sh")))
	require.NoError(t, os.WriteFile(filepath.Join(files, "etc", "mine"), []byte("from the host\n"), 0o644))
	require.NoError(t, box.Stop(ctx))

	opts.Rootfs, opts.WorkingDir, opts.User = RootfsPath(files), "", ""
	box, err = rt.Create(ctx, opts, "")
	require.NoError(t, err)
	out, _, _ = output(t, box, Command("/bin/sh", "-c", "busybox cat /etc/mine; echo changed > /etc/mine; busybox cat /etc/mine"))
	require.Equal(t, "from the host\nchanged\n", out)
	require.NoError(t, box.Stop(ctx))
	kept, err := os.ReadFile(filepath.Join(files, "etc", "mine"))
	require.NoError(t, err)
	require.Equal(t, "from the host\n", string(kept), "the host's files are not written")
}
