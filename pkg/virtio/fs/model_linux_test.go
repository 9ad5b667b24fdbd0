package fs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

// TestRandomContents does random operations on one file and on an array of bytes.
func TestRandomContents(t *testing.T) {
	const size = 256 << 10
	for _, c := range []fs.Config{{}, {Cache: fs.CacheAlways, Writeback: true}, {Owner: fs.OwnerXattr, Cache: fs.CacheNone}} {
		c.Path = t.TempDir()
		g := mount(t, c)
		g.pages = true
		rnd := rand.New(rand.NewPCG(1, 2))
		node, fh, errno := g.create(root, "f", os.O_RDWR, 0o600)
		require.Zero(t, errno)
		fhs := []uint64{fh}
		var model []byte
		grow := func(n int) {
			if n > len(model) {
				model = append(model, make([]byte, n-len(model))...)
			}
		}
		span := func() (off, n int) {
			off = rnd.IntN(size)
			return off, 1 + rnd.IntN(min(size-off, 1<<(1+rnd.IntN(17))))
		}
		buf := make([]byte, size)
		for i := range long(7_000) {
			fh := fhs[rnd.IntN(len(fhs))]
			off, n := span()
			switch op := rnd.IntN(10); op {
			case 0, 1, 2:
				for j := range buf[:n] {
					buf[j] = byte(rnd.Uint32())
				}
				k, errno := g.write(node, fh, uint64(off), buf[:n])
				require.Zero(t, errno)
				require.Equal(t, n, k)
				grow(off + n)
				copy(model[off:], buf[:n])
			case 3, 4, 5:
				p, errno := g.read(node, fh, uint64(off), n)
				require.Zero(t, errno)
				from := min(off, len(model))
				require.True(t, bytes.Equal(model[from:min(off+n, len(model))], p), "step %d: %d bytes at %d", i, n, off)
			case 6:
				c := changes{valid: 8, size: uint64(off)}
				if n&1 != 0 {
					c.valid, c.fh = 8|64, fh
				}
				_, errno := g.setattr(node, c)
				require.Zero(t, errno)
				grow(off)
				model = model[:off:off]
			case 7:
				mode := [...]int{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE,
					unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[rnd.IntN(5)]
				errno := g.simple(opFallocate, node, pack(fh, uint64(off), uint64(n), mode, 0))
				if errno == syscall.EOPNOTSUPP {
					continue // of the host's file system
				}
				require.Zero(t, errno)
				if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
					grow(off + n)
				}
				if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
					clear(model[min(off, len(model)):min(off+n, len(model))])
				}
			case 8:
				to, _ := span()
				n = min(n, size-to)
				p, errno := g.call(opCopyFileRange, node, pack(fh, uint64(off), node, fh, uint64(to), uint64(n), uint64(0)), 8)
				if errno == syscall.EINVAL { // ranges that overlap
					require.Less(t, max(off, to), min(off, to)+n)
					continue
				}
				require.Zero(t, errno)
				k := int(le.Uint32(p))
				if k > 0 {
					grow(to + k)
					copy(model[to:], model[off:off+k])
				}
			case 9:
				if len(fhs) > 1 && n&1 != 0 {
					require.Zero(t, g.release(node, fhs[0]))
					fhs = fhs[1:]
				} else if len(fhs) < 8 {
					fh, _, errno := g.open(node, os.O_RDWR)
					require.Zero(t, errno)
					fhs = append(fhs, fh)
				}
			}
			s, errno := g.getattr(node)
			require.Zero(t, errno)
			require.EqualValues(t, len(model), s.size, "step %d", i)
		}
		on, err := os.ReadFile(filepath.Join(c.Path, "f"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(model, on))
	}
}

// TestRandomNames does random operations through the device in one folder, and by
// system calls in another: errors and trees must be the same.
func TestRandomNames(t *testing.T) {
	for _, most := range []int{0, 64} { // 64: nearly all has to be found again
		share, plain := t.TempDir(), t.TempDir()
		g := mount(t, fs.Config{Path: share, MaxDescriptors: most})
		rnd := rand.New(rand.NewPCG(3, 4))
		paths := func() string { // up to three folders deep
			parts := make([]string, 1+rnd.IntN(3))
			for i := range parts {
				parts[i] = string(rune('a' + rnd.IntN(5)))
			}
			return strings.Join(parts, "/")
		}
		// walk looks up the folder of a path as a guest's kernel would.
		walk := func(path string) (uint64, string, syscall.Errno) {
			parts := strings.Split(path, "/")
			dir := uint64(root)
			for _, p := range parts[:len(parts)-1] {
				id, s, errno := g.lookup(dir, p)
				if errno != 0 {
					return 0, "", errno
				}
				if s.mode&unix.S_IFMT != unix.S_IFDIR {
					return 0, "", syscall.ENOTDIR
				}
				dir = id
			}
			return dir, parts[len(parts)-1], 0
		}
		errnoOf := func(err error) syscall.Errno {
			if err == nil {
				return 0
			}
			require.IsType(t, syscall.Errno(0), err)
			return err.(syscall.Errno)
		}
		for i := range long(10_000) {
			if i%50 == 0 {
				g.init() // forgets what has no name any more
			}
			path, other := paths(), paths()
			host, host2 := filepath.Join(plain, path), filepath.Join(plain, other)
			dir, name, got := walk(path)
			dir2, name2, got2 := walk(other)
			var want syscall.Errno
			what := ""
			switch op := rnd.IntN(9); op {
			case 0, 1:
				what, want = "mkdir "+path, errnoOf(unix.Mkdir(host, 0o755))
				if got == 0 {
					_, _, got = g.mkdir(dir, name, 0o755)
				}
			case 2, 3:
				fd, err := unix.Open(host, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW, 0o644)
				what, want = "create "+path, errnoOf(err)
				if err == nil {
					unix.Close(fd)
				}
				if got == 0 {
					var node, fh uint64
					if node, fh, got = g.create(dir, name, os.O_RDWR|os.O_EXCL, 0o644); got == 0 {
						require.Zero(t, g.release(node, fh))
					}
				}
			case 4:
				what, want = "unlink "+path, errnoOf(unix.Unlink(host))
				if got == 0 {
					got = g.simple(opUnlink, dir, pack(name))
				}
			case 5:
				what, want = "rmdir "+path, errnoOf(unix.Rmdir(host))
				if got == 0 {
					got = g.simple(opRmdir, dir, pack(name))
				}
			case 6, 7:
				flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[rnd.IntN(4)]
				if got != 0 || got2 != 0 {
					continue // which of two errors comes first is the kernel's choice
				}
				what, want = fmt.Sprintf("rename %s %s %d", path, other, flags), errnoOf(unix.Renameat2(unix.AT_FDCWD, host, unix.AT_FDCWD, host2, flags))
				got = g.simple(opRename2, dir, pack(dir2, int(flags), 0, name, name2))
			case 8:
				if got != 0 || got2 != 0 {
					continue
				}
				what, want = "link "+path+" "+other, errnoOf(unix.Link(host, host2))
				node, s, errno := g.lookup(dir, name)
				switch got = errno; {
				case errno == 0 && s.mode&unix.S_IFMT == unix.S_IFDIR && want == syscall.EEXIST: // the guest's kernel looks there first
					got = want
				case errno == 0:
					_, _, got = g.entry(opLink, dir2, pack(node, name2))
				}
			}
			require.Equal(t, want, got, "step %d: %s: %v, want %v", i, what, got, want)
		}
		names := func(dir string) (all []string) {
			require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
				require.NoError(t, err)
				rel, _ := filepath.Rel(dir, path)
				all = append(all, fmt.Sprint(rel, info.Mode(), info.Sys().(*syscall.Stat_t).Nlink))
				return nil
			}))
			return all
		}
		require.Equal(t, names(plain), names(share))
	}
}

// TestFoundAgain: inodes whose descriptors were given up.
func TestFoundAgain(t *testing.T) {
	dir := t.TempDir()
	g := mount(t, fs.Config{Path: dir, MaxDescriptors: 64})
	at := uint64(root)
	var chain []uint64
	for range 30 {
		id, _, errno := g.mkdir(at, "d", 0o755)
		require.Zero(t, errno)
		at = id
		chain = append(chain, id)
	}
	leaf, fh, errno := g.create(at, "leaf", os.O_RDWR, 0o644)
	require.Zero(t, errno)
	require.Zero(t, g.release(leaf, fh))
	var ids []uint64
	churn := func() { // gives all others up
		for i := range 200 {
			name := fmt.Sprint("f", i)
			if len(ids) < 200 {
				node, fh, errno := g.create(root, name, os.O_RDWR, 0o644)
				require.Zero(t, errno)
				require.Zero(t, g.release(node, fh))
				ids = append(ids, node)
			}
			_, errno := g.getattr(ids[i])
			require.Zero(t, errno)
		}
	}
	churn()
	_, errno = g.getattr(leaf)
	require.Zero(t, errno, "with all folders above it")
	require.NotZero(t, g.d.Device().(*fs.Device).Counters().Evicted)

	churn()
	require.Zero(t, g.simple(opRename, chain[3], pack(chain[3], "d", "renamed")))
	churn()
	_, errno = g.getattr(leaf)
	require.Zero(t, errno, "after the guest has renamed a folder")

	churn()
	require.NoError(t, os.Rename(filepath.Join(dir, "f0"), filepath.Join(dir, "elsewhere")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f0"), []byte("another"), 0o644))
	for range 3 {
		_, errno = g.getattr(ids[0])
		if errno != 0 {
			break
		}
		for _, id := range ids[1:] {
			g.getattr(id)
		}
	}
	require.Equal(t, syscall.ESTALE, errno, "the host has put another file there")
	id := g.find(root, "f0")
	require.NotEqual(t, ids[0], id)
	require.Equal(t, ids[0], g.find(root, "elsewhere"))
	_, errno = g.getattr(ids[0])
	require.Zero(t, errno, "found under its new name")

	// What has no name any more keeps its descriptor.
	node := g.find(root, "f1")
	fh, _, errno = g.open(node, os.O_RDWR)
	require.Zero(t, errno)
	require.Zero(t, g.simple(opUnlink, root, pack("f1")))
	ids = append(ids[:1], ids[2:]...)
	for _, id := range ids {
		g.getattr(id)
	}
	s, errno := g.getattr(node)
	require.Zero(t, errno)
	require.Zero(t, s.nlink)
	require.Zero(t, g.release(node, fh))
	_, errno = g.setattr(node, changes{valid: 8, size: 3})
	require.Zero(t, errno)
}
