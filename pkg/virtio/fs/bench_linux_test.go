package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// prepared is a request that can be done again and again without the client
// allocating anything.
type prepared struct {
	g    *guest
	bufs []virtiotest.Buf
}

func (g *guest) prepare(op uint32, node uint64, body []byte, room int) *prepared {
	n := g.put(op, node, body)
	first := uint32(40)
	if op == opWrite {
		first = 80
	}
	p := &prepared{g, g.bufs(g.in, first, n, false)}
	if room >= 0 {
		p.bufs = append(p.bufs, g.bufs(g.out, 16, uint32(16+room), true)...)
	}
	return p
}

func (p *prepared) do() {
	p.g.d.Do(p.g.q, p.bufs...)
	if e := le.Uint32(p.g.d.Bytes(p.g.out+4, 4)); e != 0 && len(p.bufs) > 2 {
		p.g.t.Fatalf("error %d", int32(e))
	}
}

// common are the requests that guests do most.
func common(t testing.TB, g *guest) map[string]*prepared {
	node := g.find(root, "file")
	fh, _, errno := g.open(node, os.O_RDWR)
	require.Zero(t, errno)
	dir := le.Uint64(g.must(opOpendir, root, pack(0, 0), 16))
	all := map[string]*prepared{}
	add := func(name string, op uint32, node uint64, body []byte, room int) {
		// Each has memory of its own.
		two := &guest{t: t, d: g.d, q: 1, in: g.d.Alloc(len(body) + 4096), out: g.d.Alloc(room + 4096), pages: true}
		all[name] = two.prepare(op, node, body, room)
	}
	add("lookup", opLookup, root, pack("file"), 128)
	add("getattr", opGetattr, node, pack(0, 0, uint64(0)), 104)
	add("read 4 KiB", opRead, node, pack(fh, uint64(0), 4096, 0, uint64(0), 0, 0), 4096)
	add("read 1 MiB", opRead, node, pack(fh, uint64(0), 1<<20, 0, uint64(0), 0, 0), 1<<20)
	add("write 4 KiB", opWrite, node, pack(fh, uint64(0), 4096, 0, uint64(0), 0, 0, make([]byte, 4096)), 8)
	add("write 1 MiB", opWrite, node, pack(fh, uint64(0), 1<<20, 0, uint64(0), 0, 0, make([]byte, 1<<20)), 8)
	add("readdirplus", opReaddirplus, root, pack(dir, uint64(0), 4096, 0, uint64(0), 0, 0), 4096)
	add("statfs", opStatfs, root, nil, 80)
	return all
}

func commonShare(t testing.TB) string {
	dir := populate(t)
	for i := range 20 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o644))
	return dir
}

func TestNoAllocations(t *testing.T) {
	g := mount(t, fs.Config{Path: commonShare(t)})
	for name, p := range common(t, g) {
		t.Run(name, func(t *testing.T) {
			p.g.t = t
			p.do()
			virtiotest.NoAllocations(t, p.do)
		})
	}
	t.Run("lookup and forget", func(t *testing.T) {
		look := newSmall(g).prepare(opLookup, root, pack("7"), 128)
		look.do()
		id := le.Uint64(g.d.Bytes(look.g.out+16, 8))
		forget := newSmall(g).prepare(opForget, id, pack(uint64(1)), -1)
		virtiotest.NoAllocations(t, func() {
			look.do()
			// Its number is another each time.
			copy(g.d.Bytes(forget.g.in+16, 8), g.d.Bytes(look.g.out+16, 8))
			forget.do()
		})
	})
}

func newSmall(g *guest) *guest {
	return &guest{t: g.t, d: g.d, q: 1, in: g.d.Alloc(4096), out: g.d.Alloc(4096)}
}

func Benchmark(b *testing.B) {
	g := mount(b, fs.Config{Path: commonShare(b)})
	for name, p := range common(b, g) {
		b.Run(name, func(b *testing.B) {
			p.g.t, g.d.T = b, b
			b.ReportAllocs()
			if n := map[string]int64{"read 4 KiB": 4096, "write 4 KiB": 4096, "read 1 MiB": 1 << 20, "write 1 MiB": 1 << 20}[name]; n > 0 {
				b.SetBytes(n)
			}
			for range b.N {
				p.do()
			}
		})
	}
}

// FuzzDriver lets the fuzzer write requests and rings.
func FuzzDriver(f *testing.F) {
	var seeds [][]byte
	header := func(op uint32, node uint64, body []byte) []byte {
		p := pack(40+len(body), op, uint64(2), node, 0, 0, 0, 0, body)
		return p
	}
	seeds = append(seeds, header(opInit, 0, pack(7, 41, 0, uint32(everyFlag), uint32(everyFlag>>32))), header(opGetattr, root, make([]byte, 16)),
		header(opReaddirplus, root, make([]byte, 40)), header(opWrite, 2, make([]byte, 60)), header(opSetattr, 2, make([]byte, 88)))
	for op, body := range named([]byte("sub")) {
		seeds = append(seeds, header(op, root, body))
	}
	s := suite()
	s.New = func(t testing.TB) virtio.Device {
		return newDevice(t, fs.Config{Path: populate(t), QueueSize: 16, MaxInodes: 100, MaxDescriptors: 64, SharedLocks: true})
	}
	s.Exercise = nil // the guest may have removed what it reads
	virtiotest.FuzzDevice(f, s, seeds...)
}

// FuzzRequest sends any request to a mounted share. Outside of it nothing changes.
func FuzzRequest(f *testing.F) {
	outer, share := cell(f)
	g := mount(f, fs.Config{Path: share, MaxInodes: 1000, SharedLocks: true})
	for op := uint32(1); op < 53; op++ {
		for _, body := range [][]byte{make([]byte, 8), make([]byte, 88), pack(make([]byte, 16), "sub", "..")} {
			f.Add(op, uint64(root), body, uint16(300))
			f.Add(op, uint64(2), body, uint16(16))
		}
	}
	for op, body := range named([]byte("sub")) {
		f.Add(op, uint64(root), body, uint16(300))
	}
	before := tree(f, filepath.Join(outer, "outside"))
	f.Fuzz(func(t *testing.T, op uint32, node uint64, body []byte, room uint16) {
		g.t, g.d.T = t, t
		if op == opSetlkw {
			op = opSetlk // which does not wait
		}
		g.init()
		g.lookup(root, "sub")
		g.call(opOpendir, root, make([]byte, 8), 16)
		g.call(op, node, body[:min(len(body), 70<<10)], int(room))
		if now := tree(t, filepath.Join(outer, "outside")); now != before {
			t.Fatalf("outside:\n%s\nwas:\n%s", now, before)
		}
		if g.d.NeedsReset() {
			t.Fatal("it wants a reset")
		}
	})
}
