package fs_test

import (
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

func lockBody(fh, owner, start, end uint64, typ, flags int) []byte {
	return pack(fh, owner, start, end, typ, 0, flags, 0)
}

// later submits a request without waiting for its answer.
func (g *guest) later(op uint32, node uint64, body []byte) {
	n := g.put(op, node, body)
	g.d.Rings[g.q].Add(virtiotest.Buf{Addr: g.in, Len: n}, virtiotest.Buf{Addr: g.out, Len: 16, Write: true})
	g.d.Kick(g.q)
}

func TestSharedLocks(t *testing.T) {
	dir := populate(t)
	c := fs.Config{Path: dir, SharedLocks: true}
	g, other := mount(t, c), mount(t, c)
	require.NotZero(t, g.flags&(1<<1))
	require.NotZero(t, g.flags&(1<<10))
	open := func(g *guest) (uint64, uint64) {
		node := g.find(root, "file")
		fh, _, errno := g.open(node, os.O_RDWR)
		require.Zero(t, errno)
		return node, fh
	}
	node, fh := open(g)
	_, fh2 := open(g)
	onode, ofh := open(other)
	setlk := func(g *guest, node, fh, owner, start, end uint64, typ, flags int) syscall.Errno {
		t.Helper()
		return g.simple(opSetlk, node, lockBody(fh, owner, start, end, typ, flags))
	}
	const flock = 1
	t.Run("flock", func(t *testing.T) {
		require.Zero(t, setlk(g, node, fh, 1, 0, math.MaxInt64, unix.F_WRLCK, flock))
		require.Equal(t, syscall.EAGAIN, setlk(g, node, fh2, 1, 0, math.MaxInt64, unix.F_RDLCK, flock), "another open file of the process")
		require.Equal(t, syscall.EAGAIN, setlk(other, onode, ofh, 1, 0, math.MaxInt64, unix.F_RDLCK, flock), "another guest")
		host, err := os.Open(filepath.Join(dir, "file"))
		require.NoError(t, err)
		defer host.Close()
		require.Equal(t, unix.EWOULDBLOCK, unix.Flock(int(host.Fd()), unix.LOCK_SH|unix.LOCK_NB), "the host")
		require.Zero(t, setlk(g, node, fh, 1, 0, math.MaxInt64, unix.F_UNLCK, flock))
		require.Zero(t, setlk(other, onode, ofh, 1, 0, math.MaxInt64, unix.F_RDLCK, flock))
		require.Zero(t, setlk(g, node, fh, 1, 0, math.MaxInt64, unix.F_RDLCK, flock))
		require.Zero(t, setlk(g, node, fh, 1, 0, math.MaxInt64, unix.F_UNLCK, flock))
		require.Zero(t, setlk(other, onode, ofh, 1, 0, math.MaxInt64, unix.F_UNLCK, flock))
	})
	t.Run("posix", func(t *testing.T) {
		require.Zero(t, setlk(g, node, fh, 1, 0, 99, unix.F_WRLCK, 0))
		require.Zero(t, setlk(g, node, fh2, 1, 0, 99, unix.F_WRLCK, 0), "the same process")
		require.Zero(t, setlk(g, node, fh, 2, 100, 199, unix.F_WRLCK, 0))
		require.Equal(t, syscall.EAGAIN, setlk(g, node, fh, 2, 50, 60, unix.F_RDLCK, 0))
		require.Equal(t, syscall.EAGAIN, setlk(other, onode, ofh, 1, 0, math.MaxInt64, unix.F_WRLCK, 0))
		p := g.must(opGetlk, node, lockBody(fh, 3, 0, math.MaxInt64, unix.F_WRLCK, 0), 24)
		require.EqualValues(t, unix.F_WRLCK, le.Uint32(p[16:]))
		require.EqualValues(t, 0, le.Uint64(p))
		require.EqualValues(t, 99, le.Uint64(p[8:]))
		p = g.must(opGetlk, node, lockBody(fh, 3, 1000, 1001, unix.F_WRLCK, 0), 24)
		require.EqualValues(t, unix.F_UNLCK, le.Uint32(p[16:]))
		require.Zero(t, g.simple(opFlush, node, pack(fh2, uint64(0), uint64(1))), "close drops the process's locks")
		require.Zero(t, setlk(other, onode, ofh, 1, 0, 99, unix.F_WRLCK, 0))
		require.Zero(t, setlk(other, onode, ofh, 1, 0, 99, unix.F_UNLCK, 0))
		require.Zero(t, setlk(g, node, fh, 2, 0, math.MaxInt64, unix.F_UNLCK, 0))
		for _, c := range []struct {
			start, end uint64
			typ        int
		}{{10, 9, unix.F_RDLCK}, {math.MaxInt64 + 1, math.MaxUint64, unix.F_RDLCK}, {0, 1, 3}, {0, 1, -1}} {
			require.Equal(t, syscall.EINVAL, setlk(g, node, fh, 1, c.start, c.end, c.typ, 0))
		}
		require.Equal(t, syscall.EBADF, setlk(g, node, 99, 1, 0, 1, unix.F_RDLCK, 0))
	})
	t.Run("wait", func(t *testing.T) {
		require.Zero(t, setlk(other, onode, ofh, 1, 0, 9, unix.F_WRLCK, 0))
		g.later(opSetlkw, node, lockBody(fh, 1, 0, 9, unix.F_WRLCK, 0))
		waiting := g.unique
		// The same queue goes on meanwhile, in other memory.
		two := newGuest(g.d)
		two.unique = 1001
		_, errno := two.getattr(root)
		require.Zero(t, errno)
		require.Zero(t, setlk(other, onode, ofh, 1, 0, 9, unix.F_UNLCK, 0))
		used, ok := g.d.WaitUsed(1)
		require.True(t, ok)
		require.Equal(t, waiting, g.unique)
		_, errno = g.reply(used.Len)
		require.Zero(t, errno)

		two.later(opSetlkw, node, lockBody(fh, 2, 0, 9, unix.F_WRLCK, 0)) // for the first one's lock
		g.q = 0
		require.Equal(t, syscall.EAGAIN, g.simple(opInterrupt, 0, pack(uint64(12345))), "nobody waits under that number")
		// The other queue may be the faster one; then the guest asks again.
		require.True(t, virtiotest.Poll(func() bool {
			errno := g.simple(opInterrupt, 0, pack(two.unique))
			require.Contains(t, []syscall.Errno{0, syscall.EAGAIN}, errno)
			return errno == 0
		}))
		used, ok = g.d.WaitUsed(1)
		require.True(t, ok)
		_, errno = two.reply(used.Len)
		require.Equal(t, syscall.EINTR, errno)
		g.q = 1
	})
	t.Run("bounded", func(t *testing.T) {
		require.Zero(t, setlk(other, onode, ofh, 1, 0, 9, unix.F_UNLCK, 0))
		// The first guest still has its lock; the other asks as often as it can.
		refused := 0
		for range 140 {
			other.in = other.d.Alloc(4096) // the device may not have read the last one yet
			other.later(opSetlkw, onode, lockBody(ofh, 1, 0, 9, unix.F_WRLCK, 0))
		}
		require.True(t, virtiotest.Poll(func() bool {
			for {
				if _, ok := other.d.Rings[1].Reap(); !ok {
					break
				}
				refused++
			}
			return refused >= 12
		}))
		require.Equal(t, 12, refused, "more than 128 waits")
		other.d.Reset() // ends them
		require.Zero(t, setlk(g, node, fh, 1, 0, 9, unix.F_UNLCK, 0))
	})
}
