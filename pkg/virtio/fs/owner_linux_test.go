package fs_test

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

func TestOwnerXattr(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir, Owner: fs.OwnerXattr, UID: 5, GID: 6})
	s, _ := g.getattr(g.find(root, "file"))
	require.EqualValues(t, 5, s.uid)
	require.EqualValues(t, 6, s.gid)

	g.uid, g.gid = 1000, 1001
	node, fh, errno := g.create(root, "mine", os.O_RDWR, 0o400)
	require.Zero(t, errno)
	want := func(node uint64, mode, uid, gid uint32) {
		t.Helper()
		s, errno := g.getattr(node)
		require.Zero(t, errno)
		require.EqualValues(t, mode, s.mode, "%o", s.mode)
		require.EqualValues(t, uid, s.uid)
		require.EqualValues(t, gid, s.gid)
	}
	want(node, unix.S_IFREG|0o400, 1000, 1001)
	_, errno = g.setattr(node, changes{valid: 2 | 4, uid: 33, gid: 44})
	require.Zero(t, errno)
	want(node, unix.S_IFREG|0o400, 33, 44)
	_, errno = g.setattr(node, changes{valid: 1, mode: 0o4711})
	require.Zero(t, errno)
	want(node, unix.S_IFREG|0o4711, 33, 44)
	_, _, errno = g.open(node, os.O_RDWR)
	require.Zero(t, errno, "the guest's root opens it for writing")
	g.must(opWrite, node, pack(fh, uint64(0), 1, 4, uint64(0), 0, 0, []byte("x")), 8)
	want(node, unix.S_IFREG|0o711, 33, 44) // written by somebody without CAP_FSETID
	_, errno = g.setattr(node, changes{valid: 1, mode: 0o6711})
	require.Zero(t, errno)
	_, errno = g.setattr(node, changes{valid: 2, uid: 7})
	require.Zero(t, errno)
	want(node, unix.S_IFREG|0o711, 7, 44)
	// Back to what the host says: the attribute goes.
	_, errno = g.setattr(node, changes{valid: 1 | 2 | 4, uid: 5, gid: 6, mode: 0o600})
	require.Zero(t, errno)
	_, err := unix.Getxattr(filepath.Join(dir, "mine"), "user.boxlite.stat", nil)
	require.Equal(t, unix.ENODATA, err)

	sub, s, errno := g.mkdir(root, "shared", 0o2070)
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFDIR|0o2070, s.mode)
	g.uid, g.gid = 2000, 2001
	node, _, errno = g.create(sub, "inner", os.O_RDWR, 0o644)
	require.Zero(t, errno)
	want(node, unix.S_IFREG|0o644, 2000, 1001)
	_, s, errno = g.mkdir(sub, "innerdir", 0o755)
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFDIR|0o2755, s.mode)
	require.EqualValues(t, 1001, s.gid)
	for _, e := range g.list(sub, opReaddirplus, 4096) {
		if e.name == "inner" {
			require.EqualValues(t, 2000, e.stat.uid)
			require.Zero(t, e.typ, "it might be a device")
		}
	}
	_, errno = g.setattr(g.find(root, "link"), changes{valid: 2, uid: 9})
	require.Zero(t, errno)

	// What somebody else wrote there is believed only as far as it makes sense.
	for _, bad := range []string{"", "x", strings.Repeat("\xff", 20), strings.Repeat("\x00", 20), strings.Repeat("x", 21)} {
		require.NoError(t, unix.Setxattr(filepath.Join(dir, "file"), "user.boxlite.stat", []byte(bad), 0))
		want(g.find(root, "file"), unix.S_IFREG|0o644, 5, 6)
	}
}

func TestXattr(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	node := g.find(root, "file")
	set := func(node uint64, name, value string, flags int) syscall.Errno {
		_, errno := g.call(opSetxattr, node, pack(len(value), flags, 0, 0, name, []byte(value)), 0)
		return errno
	}
	require.Zero(t, set(node, "user.one", "1", 0))
	require.Equal(t, syscall.EEXIST, set(node, "user.one", "2", unix.XATTR_CREATE))
	require.Equal(t, syscall.ENODATA, set(node, "user.two", "2", unix.XATTR_REPLACE))
	require.Zero(t, set(node, "user.empty", "", 0))
	require.Zero(t, set(root, "user.dir", "d", 0))
	require.NoError(t, unix.Setxattr(filepath.Join(dir, "file"), "user.boxlite.hidden", []byte("x"), 0))
	p := g.must(opGetxattr, node, pack(0, 0, "user.one"), 8)
	require.EqualValues(t, 1, le.Uint32(p))
	p = g.must(opGetxattr, node, pack(100, 0, "user.one"), 100)
	require.Equal(t, "1", string(p))
	p = g.must(opGetxattr, node, pack(100, 0, "user.empty"), 100)
	require.Empty(t, p)
	require.Zero(t, set(node, "user.long", strings.Repeat("x", 1000), 0))
	_, errno := g.call(opGetxattr, node, pack(999, 0, "user.long"), 2000)
	require.Equal(t, syscall.ERANGE, errno)
	_, errno = g.call(opGetxattr, node, pack(100, 0, "user.nothing"), 100)
	require.Equal(t, syscall.ENODATA, errno)
	_, errno = g.call(opSetxattr, node, pack(65537, 0, 0, 0, "user.huge", make([]byte, 65537)), 0)
	require.Equal(t, syscall.E2BIG, errno)
	p = g.must(opListxattr, node, pack(0, 0), 8)
	n := int(le.Uint32(p))
	p = g.must(opListxattr, node, pack(n, 0), n)
	names := strings.Split(strings.TrimSuffix(string(p), "\x00"), "\x00")
	sort.Strings(names)
	require.Equal(t, []string{"user.empty", "user.long", "user.one"}, names)
	_, errno = g.call(opListxattr, node, pack(n-1, 0), n)
	require.Equal(t, syscall.ERANGE, errno)
	require.Zero(t, g.simple(opRemovexattr, node, pack("user.one")))
	require.Equal(t, syscall.ENODATA, g.simple(opRemovexattr, node, pack("user.one")))
	link := g.find(root, "link")
	require.Equal(t, syscall.EOPNOTSUPP, set(link, "user.x", "1", 0))
	require.Zero(t, le.Uint32(g.must(opListxattr, link, pack(0, 0), 8)))

	// With owners in attributes, those of other name spaces are kept there, too.
	g = mount(t, fs.Config{Path: dir, Owner: fs.OwnerXattr})
	node = g.find(root, "file")
	require.Zero(t, set(node, "security.capability", "cap", 0))
	p = g.must(opGetxattr, node, pack(100, 0, "security.capability"), 100)
	require.Equal(t, "cap", string(p))
	p = g.must(opListxattr, node, pack(1000, 0), 1000)
	require.Contains(t, string(p), "security.capability\x00")
	require.NotContains(t, string(p), "boxlite")
	require.Zero(t, g.simple(opRemovexattr, node, pack("security.capability")))

	g = mount(t, fs.Config{Path: dir, NoXattr: true})
	node = g.find(root, "file")
	require.Equal(t, syscall.ENOSYS, set(node, "user.x", "1", 0), "the kernel does not ask again")
	require.Equal(t, syscall.ENOSYS, g.simple(opListxattr, node, pack(0, 0)))
}
