package fs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

// TestCache: what the guest may believe.
func TestCache(t *testing.T) {
	dir := populate(t)
	const directIO, keep = 1, 2
	g := mount(t, fs.Config{Path: dir})
	require.EqualValues(t, 1<<13, g.flags&(1<<13|1<<14), "attributes come with the names, always")
	node := g.find(root, "file")
	for i, want := range []uint32{0, keep, 0, keep} { // the host changes it before the third
		if i == 2 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("changed by the host"), 0o644))
		}
		fh, flags, errno := g.open(node, os.O_RDONLY)
		require.Zero(t, errno)
		require.Equal(t, want, flags, "open %d", i)
		require.Zero(t, g.release(node, fh))
	}
	g = mount(t, fs.Config{Path: dir, Cache: fs.CacheNone})
	node, s, _ := g.lookup(root, "file")
	require.Zero(t, s.entryValid)
	_, flags, _ := g.open(node, os.O_RDONLY)
	require.EqualValues(t, directIO, flags)
	require.NotZero(t, g.flags&(1<<36))
	require.Zero(t, g.flags&(1<<13|1<<14), "attributes with names would be too old at once")

	g = mount(t, fs.Config{Path: dir, Cache: fs.CacheAlways, Writeback: true})
	require.NotZero(t, g.flags&(1<<16))
	node, s, _ = g.lookup(root, "file")
	require.EqualValues(t, 86400, s.entryValid)
	fh, flags, _ := g.open(node, os.O_WRONLY|os.O_APPEND)
	require.EqualValues(t, keep, flags)
	p, errno := g.read(node, fh, 0, 7)
	require.Zero(t, errno, "to fill a page up")
	require.Equal(t, "changed", string(p))
	_, errno = g.write(node, fh, 0, []byte("C")) // where it says, O_APPEND or not
	require.Zero(t, errno)
	on, _ := os.ReadFile(filepath.Join(dir, "file"))
	require.Equal(t, "Changed by the host", string(on))
	id, s, errno := g.lookup(root, "nothing")
	require.Zero(t, errno)
	require.Zero(t, id)
	require.EqualValues(t, 86400, s.entryValid)
}

// TestHostSeesChanges: inotify(7) on the host tells of what the guest does.
func TestHostSeesChanges(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_CLOSE_WRITE|unix.IN_MOVE|unix.IN_DELETE)
	require.NoError(t, err)
	told := func() (all []string) {
		var buf [4096]byte
		n, _ := unix.Read(watch, buf[:])
		for p := buf[:max(n, 0)]; len(p) > 0; {
			k := int(le.Uint32(p[12:]))
			all = append(all, fmt.Sprintf("%x %s", le.Uint32(p[4:])&^unix.IN_ISDIR, bytes.TrimRight(p[16:16+k], "\x00")))
			p = p[16+k:]
		}
		return all
	}
	event := func(mask int, name string) string { return fmt.Sprintf("%x %s", mask, name) }
	node, fh, errno := g.create(root, "new", os.O_RDWR, 0o644)
	require.Zero(t, errno)
	require.Contains(t, told(), event(unix.IN_CREATE, "new"))
	_, errno = g.write(node, fh, 0, []byte("x"))
	require.Zero(t, errno)
	require.Equal(t, []string{event(unix.IN_MODIFY, "new")}, told())
	require.Zero(t, g.release(node, fh))
	require.Equal(t, []string{event(unix.IN_CLOSE_WRITE, "new")}, told())
	_, errno = g.setattr(node, changes{valid: 1, mode: 0o600})
	require.Zero(t, errno)
	require.Equal(t, []string{event(unix.IN_ATTRIB, "new")}, told())
	_, errno = g.setattr(node, changes{valid: 8, size: 0})
	require.Zero(t, errno)
	require.Contains(t, told(), event(unix.IN_MODIFY, "new"))
	require.Zero(t, g.simple(opRename, root, pack(uint64(root), "new", "moved")))
	require.Equal(t, []string{event(unix.IN_MOVED_FROM, "new"), event(unix.IN_MOVED_TO, "moved")}, told())
	_, _, errno = g.mkdir(root, "folder", 0o755)
	require.Zero(t, errno)
	require.Contains(t, told(), event(unix.IN_CREATE, "folder"))
	require.Zero(t, g.simple(opUnlink, root, pack("moved")))
	require.Contains(t, told(), event(unix.IN_DELETE, "moved"))
}
