package fs_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// populate fills a folder of the host and returns it.
func populate(t testing.TB) string {
	t.Helper()
	return makeFiles(t, t.TempDir())
}

func makeFiles(t testing.TB, dir string) (share string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub/deep"), 0o755))
	for name, text := range map[string]string{"file": "hello, guest\n", "empty": "", "sub/deep/file": "deep"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	require.NoError(t, os.Symlink("file", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "outside")))
	return dir
}

func suite() virtiotest.Suite {
	return virtiotest.Suite{
		New:      func(t testing.TB) virtio.Device { return newDevice(t, fs.Config{Path: populate(t), Queues: 2}) },
		Exercise: exercise,
	}
}

// exercise reads what populate made, on every request queue.
func exercise(d *virtiotest.Driver) {
	d.T.Helper()
	g := &guest{t: d.T, d: d, in: d.Alloc(4096), out: d.Alloc(4096), q: 1}
	g.init()
	for q := 1; q < len(d.Rings); q++ {
		g.q = q
		node := g.find(root, "file")
		fh, _, errno := g.open(node, os.O_RDONLY)
		require.Zero(d.T, errno)
		p, errno := g.read(node, fh, 0, 100)
		require.Zero(d.T, errno)
		require.Equal(d.T, "hello, guest\n", string(p))
		require.Zero(d.T, g.release(node, fh))
		g.q = 0
		g.forget(node, 1)
	}
}

func TestSuite(t *testing.T) { suite().Run(t) }

func TestHostileDriver(t *testing.T) { suite().Hostile(t) }

func TestConfig(t *testing.T) {
	dir := populate(t)
	for name, c := range map[string]fs.Config{
		"no tag":            {Path: dir},
		"long tag":          {Path: dir, Tag: strings.Repeat("x", 37)},
		"NUL in tag":        {Path: dir, Tag: "a\x00b"},
		"no folder":         {Tag: "t"},
		"missing folder":    {Tag: "t", Path: filepath.Join(dir, "nothing")},
		"FIFO":              {Tag: "t", Path: fifo(t)},
		"queues":            {Tag: "t", Path: dir, Queues: 65},
		"queue size":        {Tag: "t", Path: dir, QueueSize: 100},
		"name of a folder":  {Tag: "t", Path: dir, File: "x"},
		"bad name":          {Tag: "t", Path: filepath.Join(dir, "file"), File: "a/b"},
		"writeback":         {Tag: "t", Path: dir, Writeback: true},
		"owners in nothing": {Tag: "t", Path: dir, Owner: fs.OwnerXattr, NoXattr: true},
		"inodes":            {Tag: "t", Path: dir, MaxInodes: 1},
		"descriptors":       {Tag: "t", Path: dir, MaxDescriptors: 1},
	} {
		_, err := fs.New(c)
		require.Error(t, err, name)
		require.True(t, strings.HasPrefix(err.Error(), "fs: "), "%s: %v", name, err)
	}
	d := virtiotest.Attach(t, newDevice(t, fs.Config{Tag: "my share", Path: dir, Queues: 3}))
	p := d.Config(0, 44)
	require.Equal(t, "my share", string(bytes.TrimRight(p[:36], "\x00")))
	require.EqualValues(t, 3, le.Uint32(p[36:]))
	require.Zero(t, le.Uint32(p[40:]))
	require.Len(t, d.Device().QueueSizes(), 4)
}

func fifo(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	return path
}

func TestInit(t *testing.T) {
	d := virtiotest.Attach(t, newDevice(t, fs.Config{Path: populate(t)}))
	d.Up(ring)
	g := newGuest(d)
	_, _, errno := g.lookup(root, "file")
	require.Equal(t, syscall.EIO, errno, "before FUSE_INIT")
	for _, c := range []struct {
		major, minor uint32
		want         syscall.Errno
	}{{6, 40, syscall.EPROTO}, {7, 30, syscall.EPROTO}, {8, 0, 0}, {7, 31, 0}, {7, 1000, 0}} {
		p, errno := g.call(opInit, 0, pack(c.major, c.minor, 0, 0), 64)
		require.Equal(t, c.want, errno, "%+v", c)
		if errno == 0 {
			require.EqualValues(t, 7, le.Uint32(p))
		}
	}
	for n := range 16 {
		_, errno := g.call(opInit, 0, make([]byte, n), 64)
		require.Equal(t, syscall.EINVAL, errno)
	}
	g.initWith(0)
	require.EqualValues(t, 1<<30, g.flags, "nothing that the guest does not know")
	g.init()
	require.NotZero(t, g.flags&(1<<28), "HANDLE_KILLPRIV_V2")
	require.Zero(t, g.flags&(1<<16), "WRITEBACK_CACHE")
	require.Zero(t, g.flags&(1<<1|1<<10), "locks")
	require.Zero(t, g.flags&(1<<20), "POSIX_ACL")
	node := g.find(root, "file")
	require.Zero(t, g.simple(opDestroy, 0, nil))
	_, errno = g.getattr(node)
	require.Equal(t, syscall.EIO, errno, "after FUSE_DESTROY")
	g.init()
	_, errno = g.getattr(node)
	require.Equal(t, syscall.ESTALE, errno, "ids are of one session")
}

func TestLookupAndAttributes(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir, UID: 1000, GID: 1001})
	var st unix.Stat_t
	for _, name := range []string{"file", "empty", "sub", "link", "outside"} {
		require.NoError(t, unix.Lstat(filepath.Join(dir, name), &st))
		id, s, errno := g.lookup(root, name)
		require.Zero(t, errno, name)
		require.EqualValues(t, st.Ino, s.ino)
		require.EqualValues(t, st.Size, s.size)
		require.EqualValues(t, st.Mode, s.mode)
		require.EqualValues(t, st.Nlink, s.nlink)
		require.EqualValues(t, st.Mtim.Sec, s.mtime)
		require.EqualValues(t, st.Mtim.Nsec, s.mtimens)
		require.EqualValues(t, 1000, s.uid)
		require.EqualValues(t, 1001, s.gid)
		require.EqualValues(t, 1, s.entryValid)
		again, errno := g.getattr(id)
		require.Zero(t, errno)
		again.entryValid = s.entryValid
		require.Equal(t, s, again)
		same, _, _ := g.lookup(root, name)
		require.Equal(t, id, same)
		p := g.must(opStatx, id, pack(0, 0, uint64(0), 0, 0xfff), 288)
		require.Len(t, p, 288)
		require.EqualValues(t, st.Ino, le.Uint64(p[64:]))
		require.EqualValues(t, st.Mode, le.Uint16(p[60:]))
		require.NotZero(t, le.Uint64(p[32+80:]), "time of birth")
	}
	_, _, errno := g.lookup(root, "nothing")
	require.Equal(t, syscall.ENOENT, errno)
	file := g.find(root, "file")
	_, _, errno = g.lookup(file, "x")
	require.Equal(t, syscall.ENOTDIR, errno)
	_, _, errno = g.lookup(g.find(root, "link"), "x")
	require.Equal(t, syscall.ENOTDIR, errno)
	require.Equal(t, "file", string(g.must(opReadlink, g.find(root, "link"), nil, 4096)))
	require.Equal(t, syscall.EINVAL, g.simple(opReadlink, file, nil))
	deep := g.find(g.find(g.find(root, "sub"), "deep"), "file")
	s, errno := g.getattr(deep)
	require.Zero(t, errno)
	require.EqualValues(t, 4, s.size)
	s, errno = g.getattr(root)
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFDIR, s.mode&unix.S_IFMT)
	p := g.must(opStatfs, root, nil, 80)
	require.Len(t, p, 80)
	var f unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &f))
	require.EqualValues(t, f.Blocks, le.Uint64(p))
	require.EqualValues(t, 255, le.Uint32(p[44:]))
}

// TestForgetCounts: a node lives exactly as long as the guest remembers it.
func TestForgetCounts(t *testing.T) {
	g := mount(t, fs.Config{Path: populate(t)})
	id := g.find(root, "file")
	for range 4 {
		require.Equal(t, id, g.find(root, "file"))
	}
	g.forget(id, 4)
	_, errno := g.getattr(id)
	require.Zero(t, errno)
	g.q = 0 // as the guest's kernel sends it
	g.forget(id, 1)
	g.q = 1
	_, errno = g.getattr(id)
	require.Equal(t, syscall.ESTALE, errno)
	g.forget(id, 1)
	next := g.find(root, "file")
	require.NotEqual(t, id, next, "ids are never used again")
	g.forget(root, 1<<40)
	_, errno = g.getattr(root)
	require.Zero(t, errno)

	other := g.find(root, "empty")
	g.call(opBatchForget, 0, pack(3, 0, next, uint64(1), other, uint64(7), uint64(99), uint64(1)), 0)
	for _, id := range []uint64{next, other} {
		_, errno = g.getattr(id)
		require.Equal(t, syscall.ESTALE, errno)
	}
	var many []byte
	var ids []uint64
	for range 300 {
		many = append(many, pack(g.find(root, "file"), uint64(1))...)
	}
	ids = append(ids, g.find(root, "file"))
	many = append(many, pack(ids[0], uint64(1))...)
	g.call(opBatchForget, 0, pack(301, 0, many), 0)
	_, errno = g.getattr(ids[0])
	require.Equal(t, syscall.ESTALE, errno, "a list longer than a request's fixed part")

	// An open file keeps its inode.
	id = g.find(root, "file")
	fh, _, errno := g.open(id, os.O_RDONLY)
	require.Zero(t, errno)
	g.forget(id, 1)
	p, errno := g.read(id, fh, 0, 5)
	require.Zero(t, errno)
	require.Equal(t, "hello", string(p))
	require.Zero(t, g.release(id, fh))
	_, errno = g.getattr(id)
	require.Equal(t, syscall.ESTALE, errno)
}

func TestReadAndWrite(t *testing.T) {
	dir := populate(t)
	for _, pages := range []bool{false, true} {
		g := mount(t, fs.Config{Path: dir})
		g.pages = pages
		data := make([]byte, 1<<20)
		_, _ = rand.Read(data)
		name := fmt.Sprintf("data-%v", pages)
		node, fh, errno := g.create(root, name, os.O_RDWR, 0o640)
		require.Zero(t, errno)
		n, errno := g.write(node, fh, 0, data)
		require.Zero(t, errno)
		require.Equal(t, len(data), n)
		on, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, on))
		for _, c := range []struct{ off, n int }{{0, 1 << 20}, {1, 4096}, {4095, 4098}, {1<<20 - 1, 10}, {1 << 20, 10}, {1 << 30, 10}, {777, 65536}, {0, 0}} {
			p, errno := g.read(node, fh, uint64(c.off), c.n)
			require.Zero(t, errno)
			from := min(c.off, len(data))
			require.True(t, bytes.Equal(data[from:min(from+c.n, len(data))], p), "%+v", c)
		}
		_, errno = g.write(node, fh, 5<<20, []byte("far"))
		require.Zero(t, errno)
		s, _ := g.getattr(node)
		require.EqualValues(t, 5<<20+3, s.size)
		require.EqualValues(t, unix.S_IFREG|0o640, s.mode)
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			p, errno := g.call(opLseek, node, pack(fh, uint64(2<<20), whence, 0), 8)
			require.Zero(t, errno)
			require.LessOrEqual(t, uint64(2<<20), le.Uint64(p))
		}
		require.Equal(t, syscall.EINVAL, g.simple(opLseek, node, pack(fh, uint64(0), unix.SEEK_SET, 0)))
		require.Equal(t, syscall.ENXIO, g.simple(opLseek, node, pack(fh, uint64(1<<40), unix.SEEK_DATA, 0)))
		require.Zero(t, g.simple(opFsync, node, pack(fh, 0, 0)))
		require.Zero(t, g.simple(opFsync, node, pack(fh, 1, 0)))
		require.Equal(t, syscall.ENOSYS, g.simple(opFlush, node, pack(fh, uint64(0), uint64(0))), "the kernel need not ask at each close")
		require.Zero(t, g.release(node, fh))
		require.Equal(t, syscall.EBADF, g.release(node, fh))
		_, errno = g.read(node, fh, 0, 1)
		require.Equal(t, syscall.EBADF, errno)

		fh, _, errno = g.open(node, os.O_RDONLY)
		require.Zero(t, errno)
		_, errno = g.write(node, fh, 0, []byte("x"))
		require.Equal(t, syscall.EBADF, errno)
		_, errno = g.read(g.find(root, "file"), fh, 0, 1)
		require.Equal(t, syscall.EBADF, errno, "the file of another node")
		require.Zero(t, g.release(node, fh))
	}
	require.Zero(t, mount(t, fs.Config{Path: dir}).simple(opSyncfs, root, pack(uint64(0))))
}

func TestAppend(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	node := g.find(root, "file")
	fh, _, errno := g.open(node, os.O_WRONLY|os.O_APPEND)
	require.Zero(t, errno)
	host, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer host.Close()
	_, errno = g.write(node, fh, 13, []byte("one\n"))
	require.Zero(t, errno)
	_, err = host.WriteString("host\n")
	require.NoError(t, err)
	_, errno = g.write(node, fh, 17, []byte("two\n")) // the guest does not know of the host's line
	require.Zero(t, errno)
	p, err := os.ReadFile(filepath.Join(dir, "file"))
	require.NoError(t, err)
	require.Equal(t, "hello, guest\none\nhost\ntwo\n", string(p))
	// Pages that were written through a mapping go where they belong.
	g.must(opWrite, node, pack(fh, uint64(0), 1, 1, uint64(0), 0, 0, []byte("H")), 8)
	p, err = os.ReadFile(filepath.Join(dir, "file"))
	require.NoError(t, err)
	require.Equal(t, "Hello, guest\none\nhost\ntwo\n", string(p))
}

func TestCreate(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	for _, mode := range []uint32{0o600, 0o666, 0o777, 0o444, 0o000} { // whatever the umask of the process
		name := fmt.Sprintf("f%o", mode)
		node, fh, errno := g.create(root, name, os.O_RDWR, mode)
		require.Zero(t, errno)
		s, _ := g.getattr(node)
		require.EqualValues(t, unix.S_IFREG|mode, s.mode)
		_, errno = g.write(node, fh, 0, []byte("x"))
		require.Zero(t, errno)
		require.Zero(t, g.release(node, fh))
		_, s, errno = g.mkdir(root, "d"+name, mode)
		require.Zero(t, errno)
		require.EqualValues(t, unix.S_IFDIR|mode, s.mode)
		_, s, errno = g.entry(opMknod, root, pack(unix.S_IFREG|mode, 0, 0, 0, "n"+name))
		require.Zero(t, errno)
		require.EqualValues(t, unix.S_IFREG|mode, s.mode)
	}
	_, _, errno := g.create(root, "file", os.O_RDWR|os.O_EXCL, 0o644)
	require.Equal(t, syscall.EEXIST, errno)
	node, fh, errno := g.create(root, "file", os.O_RDWR|os.O_TRUNC, 0o644)
	require.Zero(t, errno, "made by somebody else meanwhile")
	s, _ := g.getattr(node)
	require.Zero(t, s.size)
	require.Zero(t, g.release(node, fh))
	_, _, errno = g.create(root, "sub", os.O_RDWR, 0o644)
	require.Equal(t, syscall.EISDIR, errno)
	_, _, errno = g.create(root, "link", os.O_RDWR, 0o644)
	require.Equal(t, syscall.ELOOP, errno)
	_, _, errno = g.create(root, "x", 3, 0o644)
	require.Equal(t, syscall.EINVAL, errno)
	_, _, errno = g.create(g.find(root, "file"), "x", os.O_RDWR, 0o644)
	require.Equal(t, syscall.ENOTDIR, errno)

	p, errno := g.call(opTmpfile, root, pack(os.O_RDWR, 0o600, 0, 0, "name"), 144)
	if errno == syscall.EOPNOTSUPP {
		return // the host's file system has none
	}
	require.Zero(t, errno)
	node, fh = le.Uint64(p), le.Uint64(p[128:])
	_, errno = g.write(node, fh, 0, []byte("anonymous"))
	require.Zero(t, errno)
	s, errno = g.getattr(node)
	require.Zero(t, errno)
	require.Zero(t, s.nlink)
	_, s, errno = g.entry(opLink, root, pack(node, "named"))
	require.Zero(t, errno)
	require.EqualValues(t, 1, s.nlink)
	on, err := os.ReadFile(filepath.Join(dir, "named"))
	require.NoError(t, err)
	require.Equal(t, "anonymous", string(on))
}

func TestNames(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	sub := g.find(root, "sub")

	_, s, errno := g.entry(opSymlink, sub, pack("new", "../../../../etc/shadow"))
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFLNK|0o777, s.mode)
	target, err := os.Readlink(filepath.Join(dir, "sub/new"))
	require.NoError(t, err)
	require.Equal(t, "../../../../etc/shadow", target)
	_, s, errno = g.entry(opLink, sub, pack(g.find(sub, "new"), "hard"))
	require.Zero(t, errno, "of a symbolic link")
	require.EqualValues(t, 2, s.nlink)

	file := g.find(root, "file")
	id, s, errno := g.entry(opLink, sub, pack(file, "hard file"))
	require.Zero(t, errno)
	require.Equal(t, file, id)
	require.EqualValues(t, 2, s.nlink)
	_, _, errno = g.entry(opLink, root, pack(sub, "hard folder"))
	require.Equal(t, syscall.EPERM, errno)

	// The guest's inode survives the name that it was looked up by.
	require.Zero(t, g.simple(opUnlink, root, pack("file")))
	s, errno = g.getattr(file)
	require.Zero(t, errno)
	require.EqualValues(t, 1, s.nlink)
	require.Zero(t, g.simple(opRename, sub, pack(uint64(root), "hard file", "file")))
	require.Equal(t, file, g.find(root, "file"))

	require.Equal(t, syscall.EISDIR, g.simple(opUnlink, root, pack("sub")))
	require.Equal(t, syscall.ENOTEMPTY, g.simple(opRmdir, root, pack("sub")))
	require.Equal(t, syscall.ENOTDIR, g.simple(opRmdir, root, pack("file")))
	require.Equal(t, syscall.ENOENT, g.simple(opUnlink, root, pack("nothing")))
	require.Equal(t, syscall.EEXIST, g.simple(opRename2, root, pack(uint64(root), unix.RENAME_NOREPLACE, 0, "file", "empty")))
	require.Equal(t, syscall.EINVAL, g.simple(opRename2, root, pack(uint64(root), unix.RENAME_WHITEOUT, 0, "file", "empty")))
	empty := g.find(root, "empty")
	require.Zero(t, g.simple(opRename2, root, pack(uint64(root), unix.RENAME_EXCHANGE, 0, "file", "empty")))
	require.Equal(t, file, g.find(root, "empty"))
	require.Equal(t, empty, g.find(root, "file"))
	require.Zero(t, g.simple(opRename, root, pack(uint64(root), "empty", "file")), "over another")
	s, errno = g.getattr(empty)
	require.Zero(t, errno)
	require.Zero(t, s.nlink)
	require.Equal(t, syscall.EINVAL, g.simple(opRename, root, pack(sub, "sub", "sub")), "into itself")

	// A folder that is in use and gone.
	_, _, errno = g.mkdir(root, "gone", 0o755)
	require.Zero(t, errno)
	gone := g.find(root, "gone")
	require.Zero(t, g.simple(opRmdir, root, pack("gone")))
	_, _, errno = g.mkdir(gone, "x", 0o755)
	require.Equal(t, syscall.ENOENT, errno)
	_, _, errno = g.mkdir(root, "sub", 0o755)
	require.Equal(t, syscall.EEXIST, errno)
}

func TestReaddir(t *testing.T) {
	dir := populate(t)
	want := []string{".", "..", "empty", "file", "link", "outside", "sub"}
	for i := range 500 {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("x", i%200))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
		want = append(want, name)
	}
	sort.Strings(want)
	g := mount(t, fs.Config{Path: dir})
	for _, op := range []uint32{opReaddir, opReaddirplus} {
		for _, n := range []int{512, 4096, 5000, 1 << 20} {
			var got []string
			for _, e := range g.list(root, op, n) {
				got = append(got, e.name)
				if op == opReaddirplus && e.name != "." && e.name != ".." {
					require.NotZero(t, e.node)
					require.Equal(t, e.stat.ino, e.ino)
					require.Equal(t, e.stat.mode>>12, e.typ)
					g.forget(e.node, 1)
					_, errno := g.getattr(e.node)
					require.Equal(t, syscall.ESTALE, errno, "lookups are exact")
				}
			}
			sort.Strings(got)
			require.Equal(t, want, got, "operation %d, %d bytes", op, n)
		}
	}
	p := g.must(opOpendir, root, pack(0, 0), 16)
	fh := le.Uint64(p)
	all, errno := g.readdir(root, fh, 0, opReaddir, 4096)
	require.Zero(t, errno)
	again, errno := g.readdir(root, fh, all[3].off, opReaddir, 4096) // seekdir
	require.Zero(t, errno)
	require.Equal(t, all[4].name, again[0].name)
	_, errno = g.readdir(root, fh, 0, opReaddir, 16)
	require.Equal(t, syscall.EINVAL, errno, "no room for one")
	require.Zero(t, g.simple(opFsyncdir, root, pack(fh, 0, 0)))
	require.Equal(t, syscall.ENOTDIR, g.simple(opOpendir, g.find(root, "file"), pack(0, 0)))
	_, _, errno = g.open(g.find(root, "sub"), os.O_RDONLY)
	require.Equal(t, syscall.EISDIR, errno)
}

func TestSetattr(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	node := g.find(root, "file")
	s, errno := g.setattr(node, changes{valid: 1, mode: 0o6751})
	require.Zero(t, errno)
	require.EqualValues(t, unix.S_IFREG|0o751, s.mode, "set-id bits are not for the host's user")
	info, err := os.Stat(filepath.Join(dir, "file"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751), info.Mode())
	_, errno = g.setattr(g.find(root, "link"), changes{valid: 1, mode: 0o600})
	require.Equal(t, syscall.EOPNOTSUPP, errno)
	s, errno = g.setattr(node, changes{valid: 2 | 4, uid: 33, gid: 33})
	require.Zero(t, errno)
	require.Zero(t, s.uid+s.gid, "a change of owner has no effect")

	s, errno = g.setattr(node, changes{valid: 8, size: 5})
	require.Zero(t, errno)
	require.EqualValues(t, 5, s.size)
	fh, _, errno := g.open(node, os.O_RDWR)
	require.Zero(t, errno)
	s, errno = g.setattr(node, changes{valid: 8 | 64, size: 10, fh: fh})
	require.Zero(t, errno)
	require.EqualValues(t, 10, s.size)
	_, errno = g.setattr(node, changes{valid: 8, size: 1 << 63})
	require.Equal(t, syscall.EINVAL, errno)
	_, errno = g.setattr(root, changes{valid: 8, size: 0})
	require.Equal(t, syscall.EISDIR, errno)
	_, errno = g.setattr(g.find(root, "link"), changes{valid: 8, size: 0})
	require.Equal(t, syscall.ELOOP, errno)

	s, errno = g.setattr(node, changes{valid: 16 | 32, atime: 1111, mtime: 2222, mtimens: 3333})
	require.Zero(t, errno)
	require.EqualValues(t, 1111, s.atime)
	require.EqualValues(t, 2222, s.mtime)
	require.EqualValues(t, 3333, s.mtimens)
	s, errno = g.setattr(node, changes{valid: 32 | 256})
	require.Zero(t, errno)
	require.EqualValues(t, 1111, s.atime)
	require.Less(t, uint64(1<<30), s.mtime)
	link := g.find(root, "link")
	s, errno = g.setattr(link, changes{valid: 32, mtime: 77})
	require.Zero(t, errno)
	require.EqualValues(t, 77, s.mtime, "the link's, not its target's")
	s, _ = g.getattr(node)
	require.NotEqualValues(t, 77, s.mtime)
	for _, ns := range []uint32{1e9, unix.UTIME_NOW, unix.UTIME_OMIT} {
		_, errno = g.setattr(node, changes{valid: 32, mtimens: ns})
		require.Equal(t, syscall.EINVAL, errno)
	}
}

func TestFallocateAndCopy(t *testing.T) {
	dir := populate(t)
	g := mount(t, fs.Config{Path: dir})
	node, fh, errno := g.create(root, "a", os.O_RDWR, 0o644)
	require.Zero(t, errno)
	require.Zero(t, g.simple(opFallocate, node, pack(fh, uint64(0), uint64(1<<16), 0, 0)))
	s, _ := g.getattr(node)
	require.EqualValues(t, 1<<16, s.size)
	require.NotZero(t, s.blocks)
	_, errno = g.write(node, fh, 0, bytes.Repeat([]byte("x"), 1<<16))
	require.Zero(t, errno)
	require.Zero(t, g.simple(opFallocate, node, pack(fh, uint64(4096), uint64(4096), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0)))
	p, _ := g.read(node, fh, 4095, 4098)
	require.Equal(t, "x"+strings.Repeat("\x00", 4096)+"x", string(p))
	require.Equal(t, syscall.EOPNOTSUPP, g.simple(opFallocate, node, pack(fh, uint64(0), uint64(4096), unix.FALLOC_FL_COLLAPSE_RANGE, 0)))
	require.Equal(t, syscall.EINVAL, g.simple(opFallocate, node, pack(fh, uint64(0), uint64(0), 0, 0)))
	require.Equal(t, syscall.EINVAL, g.simple(opFallocate, node, pack(fh, uint64(1)<<63, uint64(1), 0, 0)))

	to, fh2, errno := g.create(root, "b", os.O_RDWR, 0o644)
	require.Zero(t, errno)
	p = g.must(opCopyFileRange, node, pack(fh, uint64(0), to, fh2, uint64(10), uint64(1<<16), uint64(0)), 8)
	require.EqualValues(t, 1<<16, le.Uint32(p))
	a, _ := os.ReadFile(filepath.Join(dir, "a"))
	b, _ := os.ReadFile(filepath.Join(dir, "b"))
	require.True(t, bytes.Equal(a, b[10:]))
	require.Equal(t, syscall.EINVAL, g.simple(opCopyFileRange, node, pack(fh, uint64(0), to, fh2, uint64(0), uint64(1), uint64(1))))
	require.Equal(t, syscall.EBADF, g.simple(opCopyFileRange, node, pack(fh, uint64(0), node, fh2, uint64(0), uint64(1), uint64(0))))
}

func TestUnknownOperations(t *testing.T) {
	g := mount(t, fs.Config{Path: populate(t)})
	for _, op := range []uint32{0, 7, 19, 34, 37, 39, 40, 41, opSetupmapping, 49, 53, 4096, 1 << 20, 1<<32 - 1} {
		require.Equal(t, syscall.ENOSYS, g.simple(op, root, make([]byte, 64)), "operation %d", op)
	}
	require.Equal(t, syscall.ENOSYS, g.simple(opSetlk, root, make([]byte, 64)), "locks are not shared")
}
