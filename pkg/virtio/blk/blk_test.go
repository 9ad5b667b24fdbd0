package blk_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/blk"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const ( // §5.2.6
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13

	ok          = 0
	ioErr       = 1
	unsupported = 2

	featureFlush       = 1 << 9
	featureDiscard     = 1 << 13
	featureWriteZeroes = 1 << 14
	featureRO          = 1 << 5
	featureMQ          = 1 << 12

	ring = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	all  = ring | featureFlush | featureDiscard | featureWriteZeroes

	diskSize = 1 << 20
)

// image makes a disk image whose sectors all differ.
func image(t testing.TB, size int) string {
	t.Helper()
	p := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, p, 0o600))
	return path
}

func open(t testing.TB, path string, o blk.Options) *blk.File {
	t.Helper()
	f, err := blk.OpenFile(path, o)
	require.NoError(t, err)
	return f
}

// device makes a device that is closed after its transport.
func device(t testing.TB, b blk.Backend, c blk.Config) *blk.Device {
	t.Helper()
	d, err := blk.New(b, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func attachFile(t testing.TB, path string, o blk.Options, c blk.Config) *virtiotest.Driver {
	t.Helper()
	return virtiotest.Attach(t, device(t, open(t, path, o), c))
}

// request is one virtio_blk_req in RAM, which can be used again and again.
type request struct {
	d          *virtiotest.Driver
	head, data guestmem.GPA
	room       int
}

func newRequest(d *virtiotest.Driver, room int) *request {
	return &request{d, d.Alloc(32), d.Alloc(max(room, 1)), room}
}

// header writes struct virtio_blk_req and an impossible status.
func (r *request) header(kind uint32, sector uint64) {
	h := r.d.Bytes(r.head, 32)
	binary.LittleEndian.PutUint32(h[0:], kind)
	binary.LittleEndian.PutUint32(h[4:], 0)
	binary.LittleEndian.PutUint64(h[8:], sector)
	h[16] = 0xee
}

func (r *request) bufs(n int, write bool) []virtiotest.Buf {
	b := []virtiotest.Buf{{Addr: r.head, Len: 16}}
	if n > 0 {
		b = append(b, virtiotest.Buf{Addr: r.data, Len: uint32(n), Write: write})
	}
	return append(b, virtiotest.Buf{Addr: r.head + 16, Len: 1, Write: true})
}

// do carries out a request with n bytes of data and returns its status.
func (r *request) do(q int, kind uint32, sector uint64, n int) byte {
	r.d.T.Helper()
	r.header(kind, sector)
	r.d.Do(q, r.bufs(n, kind == typeIn || kind == typeGetID)...)
	return r.d.Bytes(r.head+16, 1)[0]
}

func (r *request) bytes(n int) []byte { return r.d.Bytes(r.data, n) }

// exercise writes, reads back, and flushes, on every queue.
func exercise(d *virtiotest.Driver) {
	d.T.Helper()
	r := newRequest(d, 4096)
	for q := range d.Rings {
		sector := uint64(8 * (q + 1))
		for i := range r.bytes(1024) {
			r.bytes(1024)[i] = byte(i + q)
		}
		want := bytes.Clone(r.bytes(1024))
		require.EqualValues(d.T, ok, r.do(q, typeOut, sector, 1024))
		clear(r.bytes(1024))
		require.EqualValues(d.T, ok, r.do(q, typeIn, sector, 1024))
		require.Equal(d.T, want, r.bytes(1024))
		require.EqualValues(d.T, ok, r.do(q, typeFlush, 0, 0))
	}
}

var suite = virtiotest.Suite{
	New: func(t testing.TB) virtio.Device {
		return device(t, open(t, image(t, diskSize), blk.Options{}), blk.Config{Queues: 2})
	},
	Exercise: exercise,
}

func TestDevice(t *testing.T)       { suite.Run(t) }
func TestHostileGuest(t *testing.T) { suite.Hostile(t) }

func TestConfigSpace(t *testing.T) {
	d := attachFile(t, image(t, diskSize+511), blk.Options{}, blk.Config{Queues: 3, QueueSize: 64})
	le := binary.LittleEndian
	c := d.Config(0, 64)
	require.EqualValues(t, diskSize/512, le.Uint64(c[0:]), "whole sectors only")
	require.EqualValues(t, 62, le.Uint32(c[12:]), "seg_max")
	require.EqualValues(t, 512, le.Uint32(c[20:]), "blk_size")
	require.EqualValues(t, 3, c[24], "physical blocks of 4 KiB")
	require.EqualValues(t, 3, le.Uint16(c[34:]), "num_queues")
	require.NotZero(t, le.Uint32(c[36:]), "max_discard_sectors")
	require.NotZero(t, le.Uint32(c[40:]), "max_discard_seg")
	require.NotZero(t, le.Uint32(c[48:]), "max_write_zeroes_sectors")
	require.EqualValues(t, 1, c[56], "write_zeroes_may_unmap")
	require.True(t, d.Offered().Has(featureMQ|featureDiscard))
	require.False(t, d.Offered().Has(featureRO))
}

func TestReadWriteOverManyBuffers(t *testing.T) {
	path := image(t, diskSize)
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	d := attachFile(t, path, blk.Options{}, blk.Config{QueueSize: 512})
	d.Up(all)
	r := newRequest(d, 300*700)
	r.header(typeIn, 3)
	// 300 buffers, more than one system call takes, with odd sizes and with the
	// header and the status spread over others' descriptors (§2.7.4.1).
	var bufs []virtiotest.Buf
	for i := range 16 {
		bufs = append(bufs, virtiotest.Buf{Addr: r.head + guestmem.GPA(i), Len: 1})
	}
	n := 0
	for i := range 300 {
		k := 1 + i%699
		bufs = append(bufs, virtiotest.Buf{Addr: r.data + guestmem.GPA(n), Len: uint32(k), Write: true})
		n += k
	}
	tail := 512 - (n % 512) + 1 // the rest of the sector, and the status
	bufs = append(bufs, virtiotest.Buf{Addr: r.data + guestmem.GPA(n), Len: uint32(tail), Write: true})
	n += tail - 1
	require.EqualValues(t, n+1, d.Do(0, bufs...))
	require.Equal(t, want[3*512:3*512+n], r.bytes(n))
	require.EqualValues(t, ok, r.bytes(n + 1)[n])

	// The same bytes back elsewhere, through an indirect table.
	r.header(typeOut, 1000)
	for i := range bufs[16:] {
		bufs[16+i].Write = false
	}
	bufs[len(bufs)-1].Len--
	bufs = append(bufs, virtiotest.Buf{Addr: r.head + 16, Len: 1, Write: true})
	d.Rings[0].AddIndirect(d.Mem, d.Alloc(16*len(bufs)), bufs...)
	d.Kick(0)
	u, done := d.WaitUsed(0)
	require.True(t, done)
	require.EqualValues(t, 1, u.Len)
	require.EqualValues(t, ok, d.Bytes(r.head+16, 1)[0])
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	copy(want[1000*512:], want[3*512:3*512+n])
	require.True(t, bytes.Equal(want, got))
}

func TestDiscardAndWriteZeroes(t *testing.T) {
	path := image(t, diskSize)
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	d := attachFile(t, path, blk.Options{}, blk.Config{})
	d.Up(all)
	r := newRequest(d, 4096)
	for _, c := range []struct {
		kind, flags  uint32
		first, count uint64
	}{
		{typeWriteZeroes, 0, 1, 3}, {typeWriteZeroes, 1, 64, 128}, {typeWriteZeroes, 1, 513, 1}, {typeDiscard, 0, 800, 64},
	} {
		putRange(r.bytes(16), c.first, uint32(c.count), c.flags)
		require.EqualValues(t, ok, r.do(0, c.kind, 0, 16))
		got := make([]byte, c.count*512)
		f, err := os.Open(path)
		require.NoError(t, err)
		_, err = f.ReadAt(got, int64(c.first*512))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		if c.kind == typeDiscard {
			copy(want[c.first*512:], got) // anything goes
		} else {
			clear(want[c.first*512:][:c.count*512])
		}
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "nothing else changed")
}

func putRange(p []byte, sector uint64, count, flags uint32) {
	binary.LittleEndian.PutUint64(p[0:], sector)
	binary.LittleEndian.PutUint32(p[8:], count)
	binary.LittleEndian.PutUint32(p[12:], flags)
}

func TestSerial(t *testing.T) {
	d := attachFile(t, image(t, 4096), blk.Options{}, blk.Config{Serial: "box-0123456789abcdef"})
	d.Up(all)
	r := newRequest(d, 64)
	require.EqualValues(t, ok, r.do(0, typeGetID, 0, 20))
	require.Equal(t, "box-0123456789abcdef", string(r.bytes(20)))
}

// TestWithoutFlush holds a device to §5.2.5.2: a driver that did not accept FLUSH
// never asks for it, and its writes are durable when they are done.
func TestWithoutFlush(t *testing.T) {
	for _, f := range []virtio.Features{0, featureFlush} {
		mem := newMemDisk(diskSize)
		d := virtiotest.Attach(t, device(t, mem, blk.Config{}))
		d.Up(f)
		r := newRequest(d, 512)
		require.EqualValues(t, ok, r.do(0, typeOut, 0, 512))
		require.Equal(t, f == 0, mem.flushes.Load() == 1)
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]blk.Config{
		"queues":     {Queues: 65},
		"negative":   {Queues: -1},
		"queue size": {QueueSize: 100},
		"too small":  {QueueSize: 2},
		"serial":     {Serial: "123456789012345678901"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := newMemDisk(4096)
			_, err := blk.New(mem, c)
			require.ErrorContains(t, err, "blk: ")
			require.True(t, mem.closed.Load(), "New closes the disk when it fails")
		})
	}
}

func TestNoAllocations(t *testing.T) {
	path := image(t, diskSize)
	f1, err := os.Open(path)
	require.NoError(t, err)
	joined, err := blk.Concat(blk.Part{File: f1, Length: 1000}, blk.Part{File: f1, Offset: 4096, Length: 8192})
	require.NoError(t, err)
	for name, disk := range map[string]blk.Backend{"file": open(t, image(t, diskSize), blk.Options{}), "joined": joined} {
		d := virtiotest.Attach(t, device(t, disk, blk.Config{}))
		d.Up(all & d.Offered())
		r := newRequest(d, 8192)
		kinds := []uint32{typeIn, typeGetID, typeFlush}
		if name == "file" {
			kinds = append(kinds, typeOut, typeDiscard, typeWriteZeroes)
		}
		for _, kind := range kinds {
			n := map[uint32]int{typeIn: 8192, typeOut: 8192, typeGetID: 20, typeDiscard: 16, typeWriteZeroes: 16}[kind]
			putRange(r.bytes(16), 0, 8, 0)
			bufs := r.bufs(n, kind == typeIn || kind == typeGetID)
			virtiotest.NoAllocations(t, func() {
				r.header(kind, 0)
				d.Do(0, bufs...)
			})
			require.EqualValues(t, ok, d.Bytes(r.head+16, 1)[0], "%s: request type %d", name, kind)
		}
	}
}
