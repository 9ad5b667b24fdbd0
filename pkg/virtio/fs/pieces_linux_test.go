package fs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// scattered writes or reads pages that have others between them, so that a request
// is of many pieces for the host too.
type scattered struct {
	*guest
	at guestmem.GPA // of the pages: every other one
}

func scatter(g *guest) *scattered { return &scattered{g, g.d.Alloc(2 << 20)} }

func (s *scattered) pieces(n int, write bool) (b []virtiotest.Buf) {
	for i := 0; n > 0; i++ {
		k := min(n, 4096)
		b = append(b, virtiotest.Buf{Addr: s.at + guestmem.GPA(i)*8192, Len: uint32(k), Write: write})
		n -= k
	}
	return b
}

func (s *scattered) write(node, fh, off uint64, p []byte) int {
	s.t.Helper()
	n := s.put(opWrite, node, pack(fh, off, len(p), 0, uint64(0), 0, 0))
	le.PutUint32(s.d.Bytes(s.in, 4), n+uint32(len(p)))
	bufs := []virtiotest.Buf{{Addr: s.in, Len: n}}
	for i, b := range s.pieces(len(p), false) {
		copy(s.d.Bytes(b.Addr, int(b.Len)), p[i*4096:])
		bufs = append(bufs, b)
	}
	out, errno := s.reply(s.d.Do(s.q, append(bufs, virtiotest.Buf{Addr: s.out, Len: 24, Write: true})...))
	require.Zero(s.t, errno)
	return int(le.Uint32(out))
}

func (s *scattered) read(node, fh, off uint64, n int) []byte {
	s.t.Helper()
	in := s.put(opRead, node, pack(fh, off, n, 0, uint64(0), 0, 0))
	pieces := s.pieces(n, true)
	bufs := append([]virtiotest.Buf{{Addr: s.in, Len: in}, {Addr: s.out, Len: 16, Write: true}}, pieces...)
	used := s.d.Do(s.q, bufs...)
	require.Zero(s.t, le.Uint32(s.d.Bytes(s.out+4, 4)))
	var all []byte
	for _, b := range pieces {
		all = append(all, s.d.Bytes(b.Addr, int(b.Len))...)
	}
	return all[:used-16]
}

// unlike are bytes of which neighbouring pages differ.
func unlike(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i/4096*7 + i%4096)
	}
	return p
}

// TestScatteredPages moves up to 1 MiB in single pages.
func TestScatteredPages(t *testing.T) {
	dir := populate(t)
	g := scatter(mount(t, fs.Config{Path: dir}))
	node := g.find(root, "file")
	fh, _, errno := g.open(node, os.O_RDWR)
	require.Zero(t, errno)
	for _, n := range []int{1, 4096, 31 * 4096, 32 * 4096, 32*4096 + 1, 33 * 4096, 255*4096 + 17, 1 << 20} {
		want := unlike(n)
		require.Equal(t, n, g.write(node, fh, 5, want))
		p, err := os.ReadFile(filepath.Join(dir, "file"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, p[5:5+n]), "%d bytes", n)
		require.True(t, bytes.Equal(want, g.read(node, fh, 5, n)), "%d bytes", n)
	}
	require.True(t, bytes.Equal(unlike(1 << 20)[4096:], g.read(node, fh, 5+4096, 1<<20)), "up to the end of the file")
}

// TestScatteredAppend: what a guest appends stays in one piece, whoever else
// appends to the file.
func TestScatteredAppend(t *testing.T) {
	dir := populate(t)
	g := scatter(mount(t, fs.Config{Path: dir}))
	node := g.find(root, "file")
	fh, _, errno := g.open(node, os.O_WRONLY|os.O_APPEND)
	require.Zero(t, errno)
	path := filepath.Join(dir, "file")
	host, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer host.Close()
	want := unlike(1 << 20)
	for range 20 {
		require.NoError(t, os.Truncate(path, 0))
		var stop atomic.Bool
		var other sync.WaitGroup
		other.Go(func() {
			for !stop.Load() {
				if _, err := host.WriteString("host"); err != nil {
					t.Error(err)
				}
			}
		})
		require.Equal(t, len(want), g.write(node, fh, 0, want))
		stop.Store(true)
		other.Wait()
		p, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Contains(p, want))
	}
}
