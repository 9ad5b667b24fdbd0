package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// BenchmarkHandle measures the server without rings, threads and interrupts.
func BenchmarkHandle(b *testing.B) {
	dir := b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o644))
	d, err := New(Config{Tag: "share", Path: dir})
	require.NoError(b, err)
	defer d.Close()
	w := d.workers[1]
	out := make([]byte, outHeaderSize+1<<20)
	request := func(op opcode, node uint64, body []byte) *queue.Chain {
		in := make([]byte, headerSize, headerSize+len(body))
		le.PutUint32(in[0:], uint32(headerSize+len(body)))
		le.PutUint32(in[4:], uint32(op))
		le.PutUint64(in[8:], 2)
		le.PutUint64(in[16:], node)
		return &queue.Chain{Readable: [][]byte{append(in, body...)}, Writable: [][]byte{out}}
	}
	do := func(c *queue.Chain) {
		w.handle(c)
		if le.Uint32(out[4:]) != 0 {
			b.Fatal(int32(le.Uint32(out[4:])))
		}
	}
	words := func(v ...uint64) (p []byte) {
		for _, x := range v {
			p = le.AppendUint64(p, x)
		}
		return p
	}
	do(request(opInit, 0, words(7|31<<32, 0)))
	do(request(opLookup, rootID, []byte("file\x00")))
	node := le.Uint64(out[outHeaderSize:])
	do(request(opOpen, node, words(0)))
	fh := le.Uint64(out[outHeaderSize:])
	for _, c := range []struct {
		name string
		c    *queue.Chain
		n    int64
	}{
		{"lookup", request(opLookup, rootID, []byte("file\x00")), 0},
		{"getattr", request(opGetattr, node, words(0, 0)), 0},
		{"read 4 KiB", request(opRead, node, words(fh, 0, 4<<10, 0, 0)), 4 << 10},
		{"read 1 MiB", request(opRead, node, words(fh, 0, 1<<20, 0, 0)), 1 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(c.n)
			for range b.N {
				do(c.c)
			}
		})
	}
}
