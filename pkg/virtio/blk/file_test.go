package blk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/blk"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"): "no such file",
		dir:                          "is a directory",
		fifo:                         "neither a regular file nor a block device",
		"/dev/zero":                  "neither a regular file nor a block device",
	} {
		_, err := blk.OpenFile(path, blk.Options{})
		require.ErrorContains(t, err, "blk: disk "+path+": ")
		require.ErrorContains(t, err, want)
	}
}

// TestJoinedDisk compares a disk of many parts with the same bytes in one piece.
func TestJoinedDisk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	src := image(t, 1<<20)
	all, err := os.ReadFile(src)
	require.NoError(t, err)
	files := make([]*os.File, 3)
	for i := range files {
		files[i], err = os.Open(src)
		require.NoError(t, err)
	}
	var parts []blk.Part
	var want []byte
	for range 500 {
		off, n := rnd.IntN(1<<19), 1+rnd.IntN(20000)
		parts = append(parts, blk.Part{File: files[rnd.IntN(3)], Offset: int64(off), Length: int64(n)})
		want = append(want, all[off:off+n]...)
		want = append(want, make([]byte, -len(want)&4095)...)
	}
	disk, err := blk.Concat(parts...)
	require.NoError(t, err)
	defer disk.Close()
	require.EqualValues(t, len(want), disk.Size())
	require.True(t, disk.ReadOnly())
	for range 3000 {
		off := rnd.IntN(len(want))
		n := rnd.IntN(min(len(want)-off, 100_000) + 1)
		got := bytes.Repeat([]byte{0xee}, n)
		require.NoError(t, disk.ReadVec(pieces(rnd, got), int64(off)))
		require.True(t, bytes.Equal(want[off:off+n], got), "%d bytes at %d", n, off)
	}
	require.NoError(t, disk.ReadVec(nil, int64(len(want))))
	require.Error(t, disk.ReadVec([][]byte{make([]byte, 2)}, int64(len(want)-1)))
	require.Error(t, disk.ReadVec([][]byte{make([]byte, 2)}, -1))
	require.ErrorIs(t, disk.WriteVec(nil, 0), os.ErrPermission)
	require.ErrorIs(t, disk.Discard(0, 1), os.ErrPermission)
	require.ErrorIs(t, disk.WriteZeroes(0, 1, true), os.ErrPermission)
}

// pieces cuts p into buffers of all sizes, none empty.
func pieces(rnd *rand.Rand, p []byte) (v [][]byte) {
	for len(p) > 0 {
		n := 1 + rnd.IntN(min(len(p), 3000))
		v = append(v, p[:n])
		p = p[n:]
	}
	return v
}

func TestJoinedDiskAsDevice(t *testing.T) {
	src := image(t, 10000)
	want, err := os.ReadFile(src)
	require.NoError(t, err)
	f, err := os.Open(src)
	require.NoError(t, err)
	disk, err := blk.Concat(blk.Part{File: f, Offset: 8, Length: 5000}, blk.Part{File: f, Length: 10000})
	require.NoError(t, err)
	d := virtiotest.Attach(t, device(t, disk, blk.Config{}))
	d.Up(ring)
	require.True(t, d.Offered().Has(featureRO))
	r := newRequest(d, 8192)
	require.EqualValues(t, ok, r.do(0, typeIn, 8, 8192))
	require.Equal(t, want[8+4096:8+5000], r.bytes(904))
	require.Equal(t, make([]byte, 4096-904), r.bytes(4096)[904:])
	require.Equal(t, want[:4096], r.bytes(8192)[4096:])
	require.EqualValues(t, ioErr, r.do(0, typeOut, 0, 512))
}

func TestConcatRefuses(t *testing.T) {
	src := image(t, 10000)
	for name, p := range map[string]blk.Part{
		"no file":         {Length: 1},
		"empty":           {Length: 0},
		"negative":        {Length: -1},
		"negative offset": {Offset: -1, Length: 1},
		"too long":        {Length: 10001},
		"past the end":    {Offset: 9999, Length: 2},
		"overflow":        {Offset: 1 << 62, Length: 1 << 62},
	} {
		f, err := os.Open(src)
		require.NoError(t, err)
		good := blk.Part{File: f, Length: 10}
		if name != "no file" {
			p.File = f
		}
		_, err = blk.Concat(good, p)
		require.ErrorContains(t, err, "blk: part 1", name)
		require.ErrorIs(t, f.Close(), os.ErrClosed, "the files are closed")
	}
	empty, err := blk.Concat()
	require.NoError(t, err)
	require.Zero(t, empty.Size())
}

// TestWriteZeroesEverywhere: the result is the same whatever the file system can do.
func TestWriteZeroesEverywhere(t *testing.T) {
	for _, unmap := range []bool{false, true} {
		path := image(t, 300_000)
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		f := open(t, path, blk.Options{})
		require.NoError(t, f.WriteZeroes(1000, 200_000, unmap))
		clear(want[1000:201_000])
		require.NoError(t, f.Flush())
		require.NoError(t, f.Close())
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	}
}

// BenchmarkRead4K reads cached blocks: notification, worker, preadv, interrupt.
// One operation is one block; depth is how many are submitted at a time.
func BenchmarkRead4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			d := attachFile(b, image(b, diskSize), blk.Options{}, blk.Config{})
			d.Up(all)
			reqs := make([][]virtiotest.Buf, depth)
			for i := range reqs {
				r := newRequest(d, 4096)
				r.header(typeIn, uint64(8*i))
				reqs[i] = r.bufs(4096, true)
			}
			b.SetBytes(4096)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += depth {
				for _, bufs := range reqs {
					d.Rings[0].Add(bufs...)
				}
				d.Kick(0)
				for range reqs {
					if _, ok := d.WaitUsed(0); !ok {
						b.Fatal(d.Logged())
					}
				}
			}
		})
	}
}
