package vmm

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpenCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net.pcap")
	for _, text := range []string{"frames", "less"} { // the second time it is there
		f, err := openCapture(path)
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
}

// TestHostileCapture has what another user of the folder may have put where the frames
// are to go.
func TestHostileCapture(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(precious, []byte("precious"), 0o600))
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.Symlink(precious, at("link")))
	require.NoError(t, os.Symlink(at("new"), at("dangling")))
	require.NoError(t, unix.Mkfifo(at("pipe"), 0o600))
	require.NoError(t, unix.Mkfifo(at("read"), 0o600))
	reader, err := unix.Open(at("read"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(reader)
	require.NoError(t, os.Mkdir(at("folder"), 0o700))
	l, err := net.Listen("unix", at("socket"))
	require.NoError(t, err)
	defer l.Close()

	for name, want := range map[string]string{
		"link": "is a link", "dangling": "is a link", "pipe": "no regular file", "read": "no regular file",
		"folder": "no regular file", "socket": "no regular file", "missing/file": "no such file",
	} {
		f, err := openCapture(at(name))
		require.ErrorContains(t, err, want, name)
		require.ErrorContains(t, err, at(name))
		require.Nil(t, f)
	}
	got, err := os.ReadFile(precious)
	require.NoError(t, err)
	require.Equal(t, "precious", string(got))
	require.NoFileExists(t, at("new"))
}
