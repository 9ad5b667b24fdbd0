package boot

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWriteConfig: content changes, owner and mode do not; what cannot be written
// through is replaced.
func TestWriteConfig(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) string {
		b, err := os.ReadFile(at(name))
		require.NoError(t, err)
		return string(b)
	}
	require.NoError(t, writeConfig(at("new"), "text\n"))
	require.Equal(t, "text\n", read("new"))

	require.NoError(t, os.WriteFile(at("long"), []byte("much longer than what follows"), 0o640))
	require.NoError(t, writeConfig(at("long"), "short"))
	require.Equal(t, "short", read("long"))
	st, err := os.Stat(at("long"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), st.Mode())

	// The same again touches nothing.
	before := st.Sys().(*syscall.Stat_t).Ctim
	require.NoError(t, writeConfig(at("long"), "short"))
	st, err = os.Stat(at("long"))
	require.NoError(t, err)
	require.Equal(t, before, st.Sys().(*syscall.Stat_t).Ctim)

	require.NoError(t, os.Symlink("long", at("link"))) // the image's own choice
	require.NoError(t, writeConfig(at("link"), "through"))
	require.Equal(t, "through", read("long"))

	require.NoError(t, os.Symlink("/no/such/place", at("dangling")))
	require.NoError(t, writeConfig(at("dangling"), "x"))
	require.Equal(t, "x", read("dangling"))
	target, err := os.Lstat(at("dangling"))
	require.NoError(t, err)
	require.True(t, target.Mode().IsRegular())

	require.NoError(t, unix.Mkfifo(at("fifo"), 0o644)) // must not wait for a reader
	require.NoError(t, writeConfig(at("fifo"), "x"))
	require.Equal(t, "x", read("fifo"))

	require.NoError(t, os.Mkdir(at("dir"), 0o755))
	require.ErrorContains(t, writeConfig(at("dir"), "x"), at("dir"))
}
