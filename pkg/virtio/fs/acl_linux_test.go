package fs_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// aclOf builds the value of an ACL from lines like u::rwx, g:33:r--.
func aclOf(text string) []byte {
	p := le.AppendUint32(nil, 2)
	for _, e := range strings.Fields(text) {
		w := strings.Split(e, ":")
		tag := map[string]uint16{"u": 1, "g": 4, "m": 16, "o": 32}[w[0]]
		id := uint32(1<<32 - 1)
		if w[1] != "" {
			tag, id = tag<<1, 0
			for _, c := range w[1] {
				id = id*10 + uint32(c-'0')
			}
		}
		perm := uint16(0)
		for i, c := range "rwx" {
			if w[2][i] == byte(c) {
				perm |= 4 >> i
			}
		}
		p = le.AppendUint32(le.AppendUint16(le.AppendUint16(p, tag), perm), id)
	}
	return p
}

func (g *guest) setxattr(node uint64, name string, value []byte, ext int) syscall.Errno {
	g.t.Helper()
	return g.simple(opSetxattr, node, pack(len(value), 0, ext, 0, name, value))
}

func (g *guest) getxattr(node uint64, name string) ([]byte, syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(opGetxattr, node, pack(4096, 0, name), 4096)
	return append([]byte(nil), p...), errno
}

func TestACL(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir, Owner: fs.OwnerXattr})
	require.NotZero(t, g.flags&(1<<20))
	require.NotZero(t, g.flags&(1<<6), "FUSE_DONT_MASK: a default ACL stands in for the umask")
	node := g.find(root, "file")
	mode := func(node uint64) uint32 {
		s, errno := g.getattr(node)
		require.Zero(t, errno)
		return s.mode & 0o7777
	}
	host := func(name string) os.FileMode {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		return info.Mode().Perm()
	}
	_, errno := g.getxattr(node, accessACL)
	require.Equal(t, syscall.ENODATA, errno)
	require.Zero(t, g.simple(opRemovexattr, node, pack(accessACL)), "as there is none, it is gone")

	// An ACL and the mode say the same; the host's group gets what the file's has.
	full := aclOf("u::rw- u:1000:rwx g::r-- g:33:-w- m::rw- o::---")
	require.Zero(t, g.setxattr(node, accessACL, full, 0))
	require.EqualValues(t, 0o660, mode(node))
	require.EqualValues(t, 0o640, host("file"))
	got, errno := g.getxattr(node, accessACL)
	require.Zero(t, errno)
	require.Equal(t, full, got)
	p := g.must(opListxattr, node, pack(1000, 0), 1000)
	require.Contains(t, string(p), accessACL+"\x00")
	require.NotContains(t, string(p), "boxlite")
	_, err := unix.Getxattr(filepath.Join(dir, "file"), accessACL, nil)
	require.Error(t, err, "not one of the host")
	_, errno = g.setattr(node, changes{valid: 1, mode: 0o4751})
	require.Zero(t, errno)
	got, _ = g.getxattr(node, accessACL)
	require.Equal(t, aclOf("u::rwx u:1000:rwx g::r-- g:33:-w- m::r-x o::--x"), got)
	require.EqualValues(t, 0o4751, mode(node))
	require.EqualValues(t, 0o741, host("file"))
	_, errno = g.setattr(node, changes{valid: 4, gid: 7})
	require.Zero(t, errno)
	require.EqualValues(t, 0o741, host("file"), "a change of owner gives the host's group no more")

	// One that says no more than a mode is one; set-gid goes where the kernel says so.
	_, errno = g.setattr(node, changes{valid: 1, mode: 0o2755})
	require.Zero(t, errno)
	require.Zero(t, g.setxattr(node, accessACL, aclOf("u::rwx g::rw- o::r--"), 1))
	require.EqualValues(t, 0o764, mode(node))
	_, errno = g.getxattr(node, accessACL)
	require.Equal(t, syscall.ENODATA, errno)

	// What is made in a folder with a default ACL.
	sub := g.find(root, "sub")
	require.Equal(t, syscall.EOPNOTSUPP, g.setxattr(node, defaultACL, full, 0), "a file has none")
	def := aclOf("u::rwx u:1000:rwx g::r-x m::rwx o::---")
	require.Zero(t, g.setxattr(sub, defaultACL, def, 0))
	require.EqualValues(t, 0o755, mode(sub))
	g.umask = 0o77
	child, _, errno := g.create(sub, "made", os.O_RDWR, 0o664)
	require.Zero(t, errno)
	require.EqualValues(t, 0o660, mode(child), "the umask does not count there")
	require.EqualValues(t, 0o640, host("sub/made"))
	got, errno = g.getxattr(child, accessACL)
	require.Zero(t, errno)
	require.Equal(t, aclOf("u::rw- u:1000:rwx g::r-x m::rw- o::---"), got)
	inner, s, errno := g.mkdir(sub, "inner", 0o755)
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFDIR|0o750, s.mode)
	got, errno = g.getxattr(inner, defaultACL)
	require.Zero(t, errno)
	require.Equal(t, def, got)
	require.Zero(t, g.setxattr(sub, defaultACL, aclOf("u::rwx g::r-x o::r-x"), 0))
	_, s, errno = g.entry(opMknod, sub, pack(unix.S_IFIFO|0o666, 0, g.umask, 0, "fifo"))
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFIFO|0o644, s.mode)
	require.Zero(t, g.simple(opRemovexattr, sub, pack(defaultACL)))
	_, s, errno = g.entry(opMknod, sub, pack(unix.S_IFREG|0o666, 0, g.umask, 0, "plain"))
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFREG|0o600, s.mode, "the umask counts again")
	require.EqualValues(t, 0o600, host("sub/plain"))

	for name, bad := range map[string][]byte{
		"nothing": {}, "version": append([]byte{3}, full[1:]...), "odd": full[:len(full)-1], "no mask": aclOf("u::rwx u:1:rwx g::rwx o::rwx"),
		"no owner": aclOf("u:1:rwx g::rwx m::rwx o::rwx"), "twice": aclOf("u::rwx u::rwx g::rwx o::rwx"), "order": aclOf("g::rwx u::rwx o::rwx"),
		"bits": append(append([]byte(nil), full[:6]...), append([]byte{8}, full[7:]...)...), "tag": append(aclOf("u::rwx g::rwx o::rwx"), 64, 0, 0, 0, 0, 0, 0, 0),
		"long": append(aclOf("u::rwx"), make([]byte, 8192)...),
	} {
		require.Equal(t, syscall.EINVAL, g.setxattr(node, accessACL, bad, 0), name)
	}
	// What somebody else wrote there is believed only as far as it makes sense.
	require.NoError(t, unix.Setxattr(filepath.Join(dir, "sub"), "user.boxlite.x."+defaultACL, []byte("junk"), 0))
	_, s, errno = g.entry(opMknod, sub, pack(unix.S_IFREG|0o666, 0, g.umask, 0, "junk"))
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFREG|0o600, s.mode)

	// A kernel that does not know ACLs has masked modes itself, and sees none.
	g.initWith(everyFlag &^ (1<<20 | 1<<6))
	_, s, errno = g.entry(opMknod, g.find(root, "sub"), pack(unix.S_IFREG|0o666, 0, g.umask, 0, "old"))
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFREG|0o666, s.mode)
	require.Equal(t, syscall.EOPNOTSUPP, g.setxattr(g.find(root, "file"), accessACL, full, 0))
	p = g.must(opListxattr, g.find(root, "sub"), pack(1000, 0), 1000)
	require.NotContains(t, string(p), "acl")

	// Where everything is one user's there is nothing to list.
	g = mount(t, fs.Config{Path: dir})
	require.Zero(t, g.flags&(1<<20|1<<6))
	require.Equal(t, syscall.EOPNOTSUPP, g.setxattr(g.find(root, "file"), accessACL, full, 0))
	_, errno = g.getxattr(g.find(root, "file"), accessACL)
	require.Equal(t, syscall.EOPNOTSUPP, errno)
}
