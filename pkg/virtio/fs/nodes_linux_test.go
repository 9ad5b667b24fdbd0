package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestForgottenWhileOpened has a node forgotten between the two steps of an open: it
// stays what it is, with its descriptor, until the file is closed.
func TestForgottenWhileOpened(t *testing.T) {
	dir := t.TempDir()
	stats := map[string]*unix.Statx_t{}
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o644))
		stats[name] = new(unix.Statx_t)
		require.NoError(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_MNT_ID, stats[name]))
	}
	d, err := New(Config{Tag: "share", Path: dir})
	require.NoError(t, err)
	defer d.Close()
	s := d.srv
	enter := func(name string) uint64 {
		id, _, errno := s.nodes.enter(rootID, []byte(name), stats[name])
		require.Zero(t, errno)
		return id
	}
	id := enter("a")
	n, fd, errno := s.nodes.hold(id)
	require.Zero(t, errno)
	f, errno := s.reopen(n, fd, unix.O_RDONLY)
	require.Zero(t, errno)
	s.nodes.forget(id, 1)
	s.nodes.open(n, 1)
	fh, errno := s.handles.add(&handle{fd: f, node: n})
	require.Zero(t, errno)
	s.nodes.unpin(n)

	require.Equal(t, id, n.id, "it is still open")
	require.Equal(t, 1, s.nodes.fds)
	require.Empty(t, s.nodes.free)
	other := enter("b")
	h, errno := s.handles.hold(fh, id)
	require.Zero(t, errno)
	_, errno = s.handles.hold(fh, other)
	require.Equal(t, unix.EBADF, errno)

	h2, errno := s.handles.remove(fh, id)
	require.Zero(t, errno)
	s.handles.drop(h2)
	require.Equal(t, id, n.id, "a request is under way")
	s.handles.drop(h)
	require.Zero(t, n.opens)
	require.Zero(t, n.id)
	require.Zero(t, s.nodes.fds)
	require.Len(t, s.nodes.free, 1)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.ErrorIs(t, err, unix.EBADF)
}
