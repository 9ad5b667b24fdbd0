package fs_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	vfs "github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// long is how much more a test does in a soak.
func long(n int) int {
	if machinetest.Soak() {
		return 10 * n
	}
	return n
}

// cell is a folder with a share in it, and what must stay as it is around that.
func cell(t testing.TB) (outer, share string) {
	t.Helper()
	outer = place(t, makeCell)
	return outer, filepath.Join(outer, "share")
}

func makeCell(t testing.TB, outer string) (share string) {
	t.Helper()
	share = filepath.Join(outer, "share")
	require.NoError(t, os.MkdirAll(filepath.Join(share, "sub"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(outer, "outside"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outer, "outside/secret"), []byte("secret"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(share, "file"), []byte("public"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(share, "sub/secret"), []byte("public"), 0o644))
	return share
}

// tree describes all that is below a folder: names, modes, sizes, times, contents.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %v %d %v", rel, info.Mode(), info.Sys().(*syscall.Stat_t).Nlink, info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			p, err := os.ReadFile(path)
			require.NoError(t, err)
			fmt.Fprintf(&b, " %d %x", len(p), p)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			b.WriteString(" " + to)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// named are the bodies of all requests that carry a name, for one name.
func named(name []byte) map[uint32][]byte {
	z := append(bytes.Clone(name), 0)
	ok := []byte("innocent\x00")
	return map[uint32][]byte{
		opLookup:  z,
		opUnlink:  z,
		opRmdir:   z,
		opMkdir:   pack(0o755, 0, z),
		opMknod:   pack(unix.S_IFREG|0o644, 0, 0, 0, z),
		opSymlink: append(bytes.Clone(z), "target\x00"...),
		opLink:    pack(uint64(2), z),
		opCreate:  pack(os.O_RDWR, 0o644, 0, 0, z),
		opRename:  pack(uint64(root), z, ok),
		opRename2: pack(uint64(root), 0, 0, ok, z),
	}
}

// TestHostile45RawNames sends names that no kernel would (CVE-2026-47243).
func TestHostile45RawNames(t *testing.T) {
	outer, share := cell(t)
	g := mount(t, vfs.Config{Path: share})
	g.find(root, "file")
	before := tree(t, outer)
	for _, name := range []string{
		"", ".", "..", "/", "//", "/etc/passwd", "../outside/secret", "../outside/new", "sub/secret", "sub/../../outside/secret",
		"./file", "file/", "/file", "..\x00", filepath.Join(outer, "outside/secret"), filepath.Join(outer, "outside/new"),
		strings.Repeat("x", 256), strings.Repeat("x", 4096), strings.Repeat("../", 2000), strings.Repeat("x", 64<<10), "a/" + strings.Repeat("x", 300),
	} {
		for op, body := range named([]byte(name)) {
			_, errno := g.call(op, root, body, 256)
			if len(name) > 255 && errno == syscall.ENAMETOOLONG {
				continue
			}
			require.Equal(t, syscall.EINVAL, errno, "operation %d, name %.40q", op, name)
		}
	}
	for op, body := range named([]byte("unterminated")) {
		if op == opSymlink {
			body = []byte("name\x00target")
		} else {
			body = body[:len(body)-1]
		}
		_, errno := g.call(op, root, body, 256)
		require.Equal(t, syscall.EINVAL, errno, "operation %d", op)
	}
	require.Equal(t, syscall.EINVAL, g.simple(opSymlink, root, pack("empty", "")))
	require.Equal(t, syscall.ENAMETOOLONG, g.simple(opSymlink, root, pack("long", strings.Repeat("x", 4096))))
	require.Equal(t, before, tree(t, outer))
	require.False(t, g.d.NeedsReset())
}

// TestHostile46Races swaps links and moves ancestors while the guest works.
func TestHostile46Races(t *testing.T) {
	outer := place(t, makeRaces)
	share := filepath.Join(outer, "share")
	defer outsideAsItWas(t, outer)
	if !pastKernel() { // where the host does
		defer race(outer)()
	}

	g := mount(t, vfs.Config{Path: share, MaxDescriptors: 64}) // so that much has to be found again
	read := func(node uint64) {
		fh, _, errno := g.open(node, os.O_RDWR)
		if errno != 0 {
			return
		}
		p, _ := g.read(node, fh, 0, 64)
		if string(p) == "secret" {
			t.Fatal("the guest read a file outside of the share")
		}
		g.write(node, fh, 0, []byte("public"))
		g.release(node, fh)
	}
	count := func(ids ...uint64) {
		for _, id := range ids {
			if id > root {
				g.forget(id, 1)
			}
		}
	}
	for i := range rounds(long(4_000), 200) { // of 25 requests: 10^5, or 10^6
		sub, _, _ := g.lookup(root, "sub")
		file, _, _ := g.lookup(root, "file")
		secret, _, _ := g.lookup(sub, "secret")
		read(secret)
		read(file)
		_, _ = g.setattr(sub, changes{valid: 1, mode: 0o755})
		_, _ = g.setattr(file, changes{valid: 32, mtime: 5})
		g.simple(opMkdir, sub, pack(0o755, 0, "planted"))
		g.simple(opRmdir, sub, pack("planted"))
		a, _, _ := g.lookup(root, "a")
		b, _, _ := g.lookup(a, "b")
		c, _, _ := g.lookup(b, "c")
		up, _, errno := g.lookup(b, "..")
		require.NotZero(t, errno, "node %d", up)
		deep, _, _ := g.lookup(c, "secret")
		read(deep)
		count(deep, c, b, a, secret, file, sub)
		if i%64 == 0 {
			g.init()
		}
	}
}

// makeRaces is makeCell with what race moves.
func makeRaces(t testing.TB, outer string) (share string) {
	t.Helper()
	share = makeCell(t, outer)
	require.NoError(t, os.Symlink("../outside", filepath.Join(share, "sub.link")))
	require.NoError(t, os.Symlink("../outside/secret", filepath.Join(share, "file.link")))
	require.NoError(t, os.MkdirAll(filepath.Join(share, "a/b/c"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(share, "a/b/c/secret"), []byte("public"), 0o644))
	return share
}

// race swaps links and moves ancestors until it is told to stop.
func race(outer string) (stop func()) {
	at := func(name string) string { return filepath.Join(outer, name) }
	var over atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		for !over.Load() {
			// A folder and a file become links to the outside, and back the next time.
			_ = unix.Renameat2(unix.AT_FDCWD, at("share/sub"), unix.AT_FDCWD, at("share/sub.link"), unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(unix.AT_FDCWD, at("share/file"), unix.AT_FDCWD, at("share/file.link"), unix.RENAME_EXCHANGE)
			// An ancestor leaves the share and comes back.
			_ = os.Rename(at("share/a/b"), at("moved"))
			_ = os.Rename(at("moved"), at("share/a/b"))
		}
	})
	return func() {
		over.Store(true)
		running.Wait()
	}
}

func outsideAsItWas(t testing.TB, outer string) {
	t.Helper()
	p, err := os.ReadDir(filepath.Join(outer, "outside"))
	require.NoError(t, err)
	require.Len(t, p, 1)
	text, err := os.ReadFile(filepath.Join(outer, "outside/secret"))
	require.NoError(t, err)
	require.Equal(t, "secret", string(text))
}

// TestHostile46MagicLinks: a share in which links lead out by magic.
func TestHostile46MagicLinks(t *testing.T) {
	g := mount(t, vfs.Config{Path: "/proc"})
	self := g.find(root, fmt.Sprint(cmp.Or(hostPID(), os.Getpid())))
	for _, name := range []string{"root", "cwd", "exe"} {
		id, s, errno := g.lookup(self, name)
		require.Zero(t, errno)
		require.EqualValues(t, unix.S_IFLNK, s.mode&unix.S_IFMT)
		_, _, errno = g.lookup(id, "etc")
		require.Equal(t, syscall.ENOTDIR, errno)
		_, _, errno = g.open(id, os.O_RDONLY)
		require.Equal(t, syscall.ELOOP, errno)
		require.Equal(t, syscall.ENOTDIR, g.simple(opOpendir, id, pack(0, 0)))
	}
}

func TestOtherFileSystems(t *testing.T) {
	g := mount(t, vfs.Config{Path: "/"})
	_, s, errno := g.lookup(root, "proc")
	require.Zero(t, errno)
	require.EqualValues(t, 1, s.flags, "FUSE_ATTR_SUBMOUNT")
	g = mount(t, vfs.Config{Path: "/", OneFileSystem: true})
	_, _, errno = g.lookup(root, "proc")
	require.Equal(t, syscall.ENOENT, errno)
	_, _, errno = g.mkdir(root, "proc", 0o755)
	require.Equal(t, syscall.EEXIST, errno)
}

// TestHostile47SpecialFiles: CVE-2020-35517, CVE-2023-2861, CVE-2022-0358.
func TestHostile47SpecialFiles(t *testing.T) {
	share := filepath.Join(place(t, makeFIFO), "share")
	for _, owner := range []vfs.Owner{vfs.OwnerSquash, vfs.OwnerXattr} {
		g := mount(t, vfs.Config{Path: share, Owner: owner})
		for _, typ := range []uint32{unix.S_IFCHR, unix.S_IFBLK} {
			_, s, errno := g.entry(opMknod, root, pack(typ|0o666, 0x0103, 0, 0, "dev"))
			if owner == vfs.OwnerSquash {
				require.Equal(t, syscall.EPERM, errno)
				continue
			}
			require.Zero(t, errno)
			require.EqualValues(t, typ|0o666, s.mode)
			require.EqualValues(t, 0x0103, s.rdev)
			info, err := os.Lstat(filepath.Join(share, "dev"))
			require.NoError(t, err)
			require.True(t, info.Mode().IsRegular(), "%v", info.Mode())
			require.Zero(t, g.simple(opUnlink, root, pack("dev")))
		}
		for _, typ := range []uint32{unix.S_IFDIR, unix.S_IFLNK, 0o150000} {
			require.Equal(t, syscall.EINVAL, g.simple(opMknod, root, pack(typ|0o666, 0, 0, 0, "x")))
		}
		for _, typ := range []uint32{unix.S_IFIFO, unix.S_IFSOCK} {
			id, s, errno := g.entry(opMknod, root, pack(typ|0o622, 7, 0, 0, "special"))
			require.Zero(t, errno)
			require.EqualValues(t, typ|0o622, s.mode)
			require.Zero(t, s.rdev)
			if owner == vfs.OwnerSquash {
				_, _, errno = g.open(id, os.O_RDWR)
				require.Equal(t, syscall.ENXIO, errno)
			}
			require.Zero(t, g.simple(opUnlink, root, pack("special")))
		}
		// A FIFO of the host does not stop the server, however it is asked for.
		fifo := g.find(root, "fifo")
		for _, flags := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC} {
			_, _, errno := g.open(fifo, flags)
			require.Equal(t, syscall.ENXIO, errno)
			_, _, errno = g.create(root, "fifo", flags, 0o644)
			require.Equal(t, syscall.ENXIO, errno)
		}
		_, errno := g.setattr(fifo, changes{valid: 8, size: 0})
		require.Equal(t, syscall.ENXIO, errno)
		require.Equal(t, syscall.ENOTDIR, g.simple(opOpendir, fifo, pack(0, 0)))

		// Set-id bits never reach the host, by any way.
		node, fh, errno := g.create(root, "suid", os.O_RDWR, 0o6755)
		require.Zero(t, errno)
		_, errno = g.setattr(node, changes{valid: 1, mode: 0o6755})
		require.Zero(t, errno)
		require.Zero(t, g.release(node, fh))
		_, _, errno = g.entry(opMknod, root, pack(unix.S_IFREG|0o6755, 0, 0, 0, "suid2"))
		require.Zero(t, errno)
		for _, name := range []string{"suid", "suid2"} {
			info, err := os.Stat(filepath.Join(share, name))
			require.NoError(t, err)
			require.Zero(t, info.Mode()&(os.ModeSetuid|os.ModeSetgid))
			s, _ := g.getattr(g.find(root, name))
			require.Equal(t, owner == vfs.OwnerXattr, s.mode&0o6000 == 0o6000, "%o", s.mode)
		}
		if owner == vfs.OwnerSquash && !pastKernel() { // nor do they come from there
			require.NoError(t, os.Chmod(filepath.Join(share, "suid"), 0o755|os.ModeSetuid|os.ModeSetgid))
			s, _ := g.getattr(node)
			require.EqualValues(t, 0o755, s.mode&0o7777)
		}
		for _, name := range []string{"security.capability", "trusted.overlay.opaque", "system.posix_acl_access", "system.nfs4_acl", "user.boxlite.stat", "user.boxlite.x.y", "x", ""} {
			if owner == vfs.OwnerXattr && name == accessACL {
				continue // TestACL
			}
			for _, op := range []uint32{opSetxattr, opGetxattr, opRemovexattr} {
				body := pack(3, 0, name, []byte("abc"))
				if op == opSetxattr {
					body = pack(3, 0, 0, 0, name, []byte("abc"))
				} else if op == opRemovexattr {
					body = pack(name)
				}
				_, errno := g.call(op, node, body, 100)
				if owner == vfs.OwnerXattr && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.") && name != "" {
					require.Zero(t, errno, "%d %s", op, name)
					continue
				}
				require.Contains(t, []syscall.Errno{syscall.EOPNOTSUPP, syscall.EPERM, syscall.EINVAL}, errno, "%d %s", op, name)
			}
			if name != "" && owner == vfs.OwnerSquash {
				_, err := unix.Getxattr(filepath.Join(share, "suid"), name, nil)
				require.Error(t, err, name)
			}
		}
		for _, name := range []string{"suid", "suid2"} {
			require.NoError(t, os.Remove(filepath.Join(share, name)))
		}
		require.False(t, g.d.NeedsReset())
	}
}

func makeFIFO(t testing.TB, outer string) (share string) {
	t.Helper()
	share = makeCell(t, outer)
	require.NoError(t, unix.Mkfifo(filepath.Join(share, "fifo"), 0o666))
	return share
}

func openFDs(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// TestHostile48Tables: more of everything than there may be.
func TestHostile48Tables(t *testing.T) {
	dir := t.TempDir()
	const files = 600
	for i := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644))
	}
	t.Run("inodes", func(t *testing.T) {
		g := mount(t, vfs.Config{Path: dir, MaxInodes: 200})
		var ids []uint64
		full := 0
		for i := range files {
			id, _, errno := g.lookup(root, fmt.Sprint(i))
			if errno == syscall.ENFILE {
				full++
				continue
			}
			require.Zero(t, errno)
			ids = append(ids, id)
		}
		require.Len(t, ids, 199)
		require.Equal(t, files-199, full)
		named := 0
		for _, e := range g.list(root, opReaddirplus, 4096) {
			require.True(t, e.node == 0 || e.name != "." && e.name != "..")
			if e.node != 0 {
				named++
			}
		}
		require.Equal(t, 199, named, "the others are listed without")
		_, _, errno := g.create(root, "new", os.O_RDWR, 0o644)
		require.Equal(t, syscall.ENFILE, errno)
		for _, id := range ids {
			g.forget(id, 2)
		}
		g.find(root, fmt.Sprint(files-1))
		for range long(20_000) {
			_, _, errno := g.lookup(root, "5")
			require.Zero(t, errno)
		}
	})
	t.Run("open files", func(t *testing.T) {
		before := openFDs(t)
		g := mount(t, vfs.Config{Path: dir, MaxDescriptors: 200})
		type opened struct{ node, fh uint64 }
		var all []opened
		var errno syscall.Errno
		for i := range long(2000) {
			node := g.find(root, fmt.Sprint(i%files))
			var fh uint64
			if fh, _, errno = g.open(node, os.O_RDONLY); errno == 0 {
				all = append(all, opened{node, fh})
			} else {
				require.Equal(t, syscall.ENFILE, errno)
			}
			_, e := g.call(opOpendir, root, pack(0, 0), 16)
			require.Contains(t, []syscall.Errno{0, syscall.ENFILE}, e)
		}
		require.Equal(t, syscall.ENFILE, errno)
		require.NotEmpty(t, all)
		require.LessOrEqual(t, openFDs(t), before+200+20)
		for i := range files { // what is not open still works
			s, errno := g.getattr(g.find(root, fmt.Sprint(i)))
			require.Zero(t, errno)
			require.EqualValues(t, len(fmt.Sprint(i)), s.size)
		}
		require.LessOrEqual(t, openFDs(t), before+200+20)
		require.Zero(t, g.release(all[0].node, all[0].fh))
		_, _, errno = g.open(all[0].node, os.O_RDONLY)
		require.Zero(t, errno)
	})
	t.Run("ids", func(t *testing.T) {
		g := mount(t, vfs.Config{Path: dir})
		node := g.find(root, "1")
		fh, _, errno := g.open(node, os.O_RDWR)
		require.Zero(t, errno)
		body := make([]byte, 80)
		for op := uint32(1); op < 60; op++ {
			if op == opInit || op == opDestroy || op == opForget || op == opBatchForget || op == opInterrupt {
				continue
			}
			for _, id := range []uint64{0, 2, node + 1, math.MaxUint32, math.MaxInt64, math.MaxUint64} {
				if id == node {
					continue
				}
				for _, h := range []uint64{0, fh, fh + 1, math.MaxUint64} {
					binary.LittleEndian.PutUint64(body, h)
					copy(body[8:], strings.Repeat("x\x00", 36))
					_, errno := g.call(op, id, body, 256)
					if op == opSyncfs || op == opFlush { // which have nothing to do there
						continue
					}
					require.NotZero(t, errno, "operation %d on node %d, file %d", op, id, h)
				}
			}
		}
		for _, off := range []uint64{1 << 20, 1 << 40, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
			dir := le.Uint64(g.must(opOpendir, root, pack(0, 0), 16))
			for _, op := range []uint32{opReaddir, opReaddirplus} {
				_, _ = g.readdir(root, dir, off, op, 4096) // whatever it gives
				require.Equal(t, files+2, len(g.list(root, op, 4096)), "others are not disturbed")
			}
			_, errno := g.read(node, fh, off, 4096)
			require.Contains(t, []syscall.Errno{0, syscall.EINVAL}, errno)
		}
		for range 100 { // the same number for all
			g.unique = 40
			_, errno := g.getattr(node)
			require.Zero(t, errno)
		}
	})
}

// TestHostile48Malformed sends every operation with every length of body, and
// headers that lie.
func TestHostile48Malformed(t *testing.T) {
	outer, share := cell(t)
	for _, owner := range []vfs.Owner{vfs.OwnerSquash, vfs.OwnerXattr} {
		g := mount(t, vfs.Config{Path: share, Owner: owner, SharedLocks: true})
		outside := tree(t, filepath.Join(outer, "outside"))
		for op := uint32(0); op < 60; op++ {
			for _, fill := range []byte{0, 1, 0xff} {
				for n := 0; n < 120; n += rounds(1, 13) {
					for _, room := range []int{0, 7, 100, 4096} {
						g.call(op, root, bytes.Repeat([]byte{fill}, n), room)
					}
				}
			}
			g.init()
		}
		node := g.find(root, "file")
		fh, _, errno := g.open(node, os.O_RDWR)
		require.Zero(t, errno)
		for _, size := range []uint32{0, 39, 41, 79, 1 << 20, math.MaxUint32} { // of the header's idea of its length
			n := g.put(opWrite, node, pack(fh, uint64(0), 4, 0, uint64(0), 0, 0, []byte("abcd")))
			le.PutUint32(g.d.Bytes(g.in, 4), size)
			used := g.d.Do(1, virtiotest.Buf{Addr: g.in, Len: n}, virtiotest.Buf{Addr: g.out, Len: 64, Write: true})
			_, errno := g.reply(used)
			require.NotZero(t, errno, "length %d of %d", size, n)
		}
		for _, n := range []uint32{5, 1 << 16, math.MaxUint32} { // of data
			_, errno := g.call(opWrite, node, pack(fh, uint64(0), n, 0, uint64(0), 0, 0, []byte("abcd")), 8)
			require.Equal(t, syscall.EINVAL, errno)
			_, errno = g.call(opSetxattr, node, pack(n, 0, 0, 0, "user.x", []byte("abcd")), 0)
			require.NotZero(t, errno)
		}
		p, errno := g.call(opRead, node, pack(fh, uint64(0), uint32(math.MaxUint32), 0, uint64(0), 0, 0), 3)
		require.Zero(t, errno)
		require.Len(t, p, 3, "no more than there is room")
		// No room for an answer: nothing is done.
		for room := range uint32(16) {
			bufs := []virtiotest.Buf{{Addr: g.in, Len: g.put(opMkdir, root, pack(0o755, 0, "unanswered"))}}
			if room > 0 {
				bufs = append(bufs, virtiotest.Buf{Addr: g.out, Len: room, Write: true})
			}
			require.Zero(t, g.d.Do(1, bufs...))
		}
		_, _, errno = g.lookup(root, "unanswered")
		require.Equal(t, syscall.ENOENT, errno)
		for n := range uint32(40) { // not even a header
			g.put(opGetattr, root, nil)
			used := g.d.Do(1, virtiotest.Buf{Addr: g.in, Len: n + 1}, virtiotest.Buf{Addr: g.out, Len: 16, Write: true})
			if n < 39 {
				require.EqualValues(t, 16, used)
				require.EqualValues(t, -int32(syscall.EINVAL), int32(le.Uint32(g.d.Bytes(g.out+4, 4))))
			}
		}
		require.Equal(t, outside, tree(t, filepath.Join(outer, "outside")))
		require.False(t, g.d.NeedsReset())
	}
}

// TestHostile49ReadOnly: whatever the guest asks for, nothing changes.
func TestHostile49ReadOnly(t *testing.T) {
	dir := place(t, makeFiles)
	for _, owner := range []vfs.Owner{vfs.OwnerSquash, vfs.OwnerXattr} {
		g := mount(t, vfs.Config{Path: dir, ReadOnly: true, Owner: owner, SharedLocks: true})
		before := tree(t, dir)
		sub, file := g.find(root, "sub"), g.find(root, "file")
		fh, _, errno := g.open(file, os.O_RDONLY)
		require.Zero(t, errno)
		for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_SYNC} {
			_, _, errno := g.open(file, flags)
			require.Equal(t, syscall.EROFS, errno, "%#x", flags)
			_, _, errno = g.create(root, "file", flags, 0o644)
			require.Equal(t, syscall.EROFS, errno, "%#x", flags)
			_, _, errno = g.create(root, "new", flags, 0o644)
			require.Equal(t, syscall.EROFS, errno, "%#x", flags)
		}
		for valid := uint32(0); valid < 1<<12; valid += uint32(rounds(1, 31)) {
			_, errno := g.setattr(file, changes{valid: valid, fh: fh, mode: 0o600, mtime: 5, atime: 5})
			require.Equal(t, syscall.EROFS, errno, "setattr %#x", valid)
		}
		for op, body := range map[uint32][]byte{
			opWrite:         pack(fh, uint64(0), 1, 0, uint64(0), 0, 0, []byte("x")),
			opFallocate:     pack(fh, uint64(0), uint64(100), 0, 0),
			opCopyFileRange: pack(fh, uint64(0), file, fh, uint64(5), uint64(1), uint64(0)),
			opSetxattr:      pack(1, 0, 0, 0, "user.x", []byte("x")),
			opRemovexattr:   pack("user.x"),
		} {
			_, errno := g.call(op, file, body, 64)
			require.Equal(t, syscall.EROFS, errno, "operation %d", op)
		}
		for op, body := range map[uint32][]byte{
			opMkdir:   pack(0o755, 0, "new"),
			opMknod:   pack(unix.S_IFREG|0o644, 0, 0, 0, "new"),
			opSymlink: pack("new", "target"),
			opLink:    pack(file, "new"),
			opUnlink:  pack("file"),
			opRmdir:   pack("sub"),
			opRename:  pack(sub, "file", "new"),
			opRename2: pack(sub, 0, 0, "file", "new"),
			opTmpfile: pack(os.O_RDWR, 0o644, 0, 0, "new"),
		} {
			_, errno := g.call(op, root, body, 256)
			require.Equal(t, syscall.EROFS, errno, "operation %d", op)
		}
		atime := func() syscall.Timespec {
			info, err := os.Stat(filepath.Join(dir, "file"))
			require.NoError(t, err)
			return info.Sys().(*syscall.Stat_t).Atim
		}
		at := atime()
		_, errno = g.read(file, fh, 0, 100)
		require.Zero(t, errno)
		require.Equal(t, at, atime())
		require.Zero(t, g.simple(opFsync, file, pack(fh, 0, 0)))
		require.Zero(t, g.simple(opSyncfs, root, pack(uint64(0))))
		require.Zero(t, g.simple(opSetlk, file, pack(fh, uint64(1), uint64(0), uint64(9), unix.F_RDLCK, 0, 0, 0)), "a shared lock")
		require.Zero(t, g.simple(opSetlk, file, pack(fh, uint64(1), uint64(0), uint64(9), unix.F_UNLCK, 0, 0, 0)))
		g.list(root, opReaddirplus, 4096)
		require.Equal(t, before, tree(t, dir))
	}
}
