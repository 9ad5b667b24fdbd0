package fs_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

func TestSingleFile(t *testing.T) {
	dir := populate(t)
	for _, open := range []bool{false, true} {
		c := fs.Config{Path: filepath.Join(dir, "file"), File: "resolv.conf"}
		if open {
			f, err := os.Open(c.Path)
			require.NoError(t, err)
			c.Path, c.Root = "", f
			defer f.Close()
		}
		g := mount(t, c)
		node, s, errno := g.lookup(root, "resolv.conf")
		require.Zero(t, errno)
		require.EqualValues(t, 13, s.size)
		for _, name := range []string{"file", "empty", "sub"} {
			_, _, errno = g.lookup(root, name)
			require.Equal(t, syscall.ENOENT, errno)
		}
		for _, op := range []uint32{opReaddir, opReaddirplus} {
			var names []string
			for _, e := range g.list(root, op, 300) {
				names = append(names, e.name)
			}
			require.Equal(t, []string{".", "..", "resolv.conf"}, names)
		}
		s, errno = g.getattr(root)
		require.Zero(t, errno)
		require.EqualValues(t, unix.S_IFDIR|0o555, s.mode)
		fh, _, errno := g.open(node, os.O_RDWR)
		require.Zero(t, errno)
		_, errno = g.write(node, fh, 0, []byte("HELLO"))
		require.Zero(t, errno)
		g.forget(node, 1)
		p, errno := g.read(node, fh, 0, 5)
		require.Zero(t, errno)
		require.Equal(t, "HELLO", string(p))
		_, _, errno = g.create(root, "x", os.O_RDWR, 0o644)
		require.Equal(t, syscall.EPERM, errno)
		_, _, errno = g.mkdir(root, "x", 0o755)
		require.Equal(t, syscall.EPERM, errno)
		require.Equal(t, syscall.EPERM, g.simple(opUnlink, root, pack("resolv.conf")))
		require.Equal(t, syscall.EPERM, g.simple(opRename, root, pack(uint64(root), "resolv.conf", "x")))
		_, errno = g.setattr(root, changes{valid: 1, mode: 0o777})
		require.Equal(t, syscall.EPERM, errno)
		_, _, errno = g.lookup(node, "x")
		require.Equal(t, syscall.ENOTDIR, errno)
		g.must(opStatfs, root, nil, 80)
		require.Zero(t, g.simple(opSyncfs, root, pack(uint64(0))))
		require.Equal(t, syscall.EOPNOTSUPP, g.simple(opGetxattr, root, pack(0, 0, "user.x")))

		// It stays the file that it was.
		require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o644))
		require.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "file")))
		s, errno = g.getattr(node)
		require.Zero(t, errno)
		require.EqualValues(t, 13, s.size)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("hello, guest\n"), 0o644))
	}
}
