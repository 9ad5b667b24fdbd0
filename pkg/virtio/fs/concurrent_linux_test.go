package fs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// TestConcurrentQueues keeps all queues busy with requests that get in each
// other's way: the same names, nodes, files and locks, forgotten, closed, and
// thrown away with the session at any time.
func TestConcurrentQueues(t *testing.T) {
	outer, share := cell(t)
	require.NoError(t, os.WriteFile(filepath.Join(share, "other"), make([]byte, 5000), 0o644))
	outside := tree(t, filepath.Join(outer, "outside"))
	d := virtiotest.Attach(t, newDevice(t, fs.Config{Path: share, Queues: 3, MaxDescriptors: 64, MaxInodes: 64, SharedLocks: true}))
	d.Up(ring)
	rnd := rand.New(rand.NewPCG(7, 8))
	const slots, slot = 64, 8192
	in, out := d.Alloc(slots*slot), d.Alloc(slots*slot)
	g := &guest{t: t, d: d, in: in, out: out, q: 1}
	g.init()
	names := []string{"file", "other", "sub", "new", "x", "y"}
	for range long(1500) {
		pending := make([]int, len(d.Rings))
		for i := range slots {
			name, name2 := names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]
			// Nodes and files of this session or of one before.
			node, fh, off := uint64(rnd.IntN(40)), uint64(rnd.IntN(40)), uint64(rnd.IntN(8000))
			if rnd.IntN(2) == 0 {
				node = root
			}
			var op uint32
			var body []byte
			switch rnd.IntN(20) {
			case 0, 1, 2:
				op, body = opLookup, pack(name)
			case 3:
				op, body = opForget, pack(uint64(1+rnd.IntN(3)))
			case 4:
				op, body = opCreate, pack(os.O_RDWR, 0o644, 0, 0, name)
			case 5, 6:
				op, body = opOpen, pack(os.O_RDWR, 0)
			case 7:
				op, body = opRelease, pack(fh, 0, 0, uint64(0))
			case 8, 9:
				op, body = opRead, pack(fh, off, 4096, 0, uint64(0), 0, 0)
			case 10:
				op, body = opWrite, pack(fh, off, 100, 0, uint64(0), 0, 0, make([]byte, 100))
			case 11:
				op, body = opUnlink, pack(name)
			case 12:
				op, body = opRename, pack(uint64(root), name, name2)
			case 13:
				op, body = opMkdir, pack(0o755, 0, name)
			case 14:
				op, body = opOpendir, pack(0, 0)
			case 15:
				op, body = opReaddirplus, pack(fh, uint64(0), 4096, 0, uint64(0), 0, 0)
			case 16:
				op, body = opGetattr, pack(0, 0, uint64(0))
			case 17:
				op, body = opSetlk, lockBody(fh, uint64(rnd.IntN(3)), 0, 10, rnd.IntN(3), rnd.IntN(2))
			case 18:
				op, body = opFlush, pack(fh, uint64(0), uint64(rnd.IntN(3)))
			case 19:
				if op, body = opGetattr, pack(0, 0, uint64(0)); rnd.IntN(20) == 0 {
					op, node, body = opInit, 0, pack(7, 40, 0, 0)
				}
			}
			g.in, g.out = in+guestmem.GPA(i*slot), out+guestmem.GPA(i*slot)
			n := g.put(op, node, body)
			q := rnd.IntN(len(d.Rings))
			d.Rings[q].Add(virtiotest.Buf{Addr: g.in, Len: n}, virtiotest.Buf{Addr: g.out, Len: slot, Write: true})
			pending[q]++
		}
		for q := range d.Rings {
			d.Kick(q)
		}
		for q, n := range pending {
			for range n {
				_, ok := d.WaitUsed(q)
				require.True(t, ok, "%q", d.Logged())
			}
		}
	}
	require.Equal(t, outside, tree(t, filepath.Join(outer, "outside")))
	g.init()
	g.in, g.out = in, out
	for i := range 10 { // and it still works
		node, fh, errno := g.create(root, fmt.Sprint("after", i), os.O_RDWR, 0o644)
		require.Zero(t, errno)
		require.Zero(t, g.release(node, fh))
	}
}
