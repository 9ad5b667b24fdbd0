package blk_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/blk"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

func hash(t testing.TB, path string) [32]byte {
	t.Helper()
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	return sha256.Sum256(p)
}

func TestHostile15ResetInFlight(t *testing.T) {
	// Descriptors and heads that a device could confuse with those of the life before.
	suite.ResetInFlight(t, 10_000)
}

// TestHostile15ResetWaitsForTheDisk: when the reset is done, so is the request,
// and RAM stays as it is.
func TestHostile15ResetWaitsForTheDisk(t *testing.T) {
	mem := newMemDisk(diskSize)
	mem.hold = make(chan struct{})
	d := virtiotest.Attach(t, device(t, mem, blk.Config{}))
	d.Up(all)
	r := newRequest(d, 512)
	for i := range mem.bytes {
		mem.bytes[i] = 0x11
	}
	r.header(typeIn, 0)
	d.Rings[0].Add(r.bufs(512, true)...)
	d.Kick(0)
	require.True(t, virtiotest.Poll(func() bool { return mem.waiting.Load() == 1 }))
	reset := make(chan struct{})
	go func() {
		d.Transport.WriteMMIO(virtiotest.RegStatus, make([]byte, 4))
		close(reset)
	}()
	select {
	case <-reset:
		t.Fatal("reset while the disk may still write to RAM")
	default:
	}
	close(mem.hold)
	<-reset
	require.Zero(t, mem.waiting.Load())
	clear(r.bytes(512))
	mem.hold = nil
	d.Up(all)
	require.Equal(t, make([]byte, 512), r.bytes(512))
}

func TestHostile26OutOfRange(t *testing.T) {
	path := image(t, diskSize)
	before := hash(t, path)
	d := attachFile(t, path, blk.Options{}, blk.Config{})
	d.Up(all)
	r := newRequest(d, 1<<20)
	const sectors = diskSize / 512
	for _, c := range []struct {
		sector uint64
		n      int
	}{
		{sectors, 512},
		{sectors - 1, 1024},
		{sectors + 1, 512},
		{1<<54 + 1, 512}, // times 512 is 512 again
		{1 << 55, 512},   // times 512 is 0
		{math.MaxInt64 / 512, 512},
		{math.MaxInt64/512 + 1, 512},
		{math.MaxUint64 / 512, 512},
		{math.MaxUint64, 512},
		{math.MaxUint64 - 1, 1024},
		{0, 1},
		{0, 511},
		{0, 513},
		{sectors - 1, 511},
	} {
		for _, kind := range []uint32{typeIn, typeOut} {
			require.EqualValues(t, ioErr, r.do(0, kind, c.sector, c.n), "type %d: %d bytes at sector %d", kind, c.n, c.sector)
		}
	}
	require.Equal(t, make([]byte, 2048), r.bytes(2048), "nothing was read")
	require.Equal(t, before, hash(t, path))
	require.EqualValues(t, ok, r.do(0, typeIn, sectors-1, 512))
	require.EqualValues(t, ok, r.do(0, typeIn, 0, diskSize))

	t.Run("no capacity", func(t *testing.T) {
		for _, size := range []int{0, 1, 511} {
			d := attachFile(t, image(t, size), blk.Options{}, blk.Config{})
			d.Up(all)
			r := newRequest(d, 512)
			for _, kind := range []uint32{typeIn, typeOut} {
				require.EqualValues(t, ioErr, r.do(0, kind, 0, 512))
			}
			putRange(r.bytes(16), 0, 1, 0)
			require.EqualValues(t, ioErr, r.do(0, typeDiscard, 0, 16))
			require.EqualValues(t, ok, r.do(0, typeFlush, 0, 0))
		}
	})
	t.Run("more than one request may move", func(t *testing.T) {
		path := image(t, 0)
		require.NoError(t, os.Truncate(path, 1<<30))
		d := attachFile(t, path, blk.Options{}, blk.Config{})
		d.Up(all)
		r := newRequest(d, 1<<20)
		r.header(typeIn, 0)
		bufs := r.bufs(0, false)[:1]
		for range 65 {
			bufs = append(bufs, virtiotest.Buf{Addr: r.data, Len: 1 << 20, Write: true})
		}
		bufs = append(bufs, virtiotest.Buf{Addr: r.head + 16, Len: 1, Write: true})
		require.EqualValues(t, 1, d.Do(0, bufs...))
		require.EqualValues(t, ioErr, d.Bytes(r.head+16, 1)[0])
	})
}

func TestHostile27WriteToReadOnlyDisk(t *testing.T) {
	path := image(t, diskSize)
	before := hash(t, path)
	d := attachFile(t, path, blk.Options{ReadOnly: true}, blk.Config{})
	require.True(t, d.Offered().Has(featureRO))
	require.False(t, d.Offered().Has(featureDiscard))
	for _, f := range []virtio.Features{0, featureRO, featureFlush} {
		d.Up(f)
		r := newRequest(d, 512)
		for i := range r.bytes(512) {
			r.bytes(512)[i] = 0xff
		}
		require.EqualValues(t, ioErr, r.do(0, typeOut, 0, 512))
		putRange(r.bytes(16), 0, 8, 0)
		require.EqualValues(t, ioErr, r.do(0, typeDiscard, 0, 16))
		require.EqualValues(t, ioErr, r.do(0, typeWriteZeroes, 0, 16))
		require.EqualValues(t, ok, r.do(0, typeFlush, 0, 0))
		require.EqualValues(t, ok, r.do(0, typeIn, 0, 512))
		require.Equal(t, before, hash(t, path))
	}
}

func TestHostile28DiscardAndWriteZeroes(t *testing.T) {
	path := image(t, diskSize)
	before := hash(t, path)
	d := attachFile(t, path, blk.Options{}, blk.Config{})
	d.Up(all)
	r := newRequest(d, 4096)
	const sectors = diskSize / 512
	for _, c := range []struct {
		name         string
		sector       uint64
		count, flags uint32
		discard      byte
		zeroes       byte
	}{
		{"most", 0, math.MaxUint32, 0, ioErr, ioErr},
		{"past the end", sectors, 1, 0, ioErr, ioErr},
		{"over the end", sectors - 1, 2, 0, ioErr, ioErr},
		{"overflow", math.MaxUint64, 1, 0, ioErr, ioErr},
		{"overflow of bytes", 1 << 55, 1, 0, ioErr, ioErr},
		{"unmap", 0, 1, 1, unsupported, ok},
		{"unknown flag", 0, 1, 2, unsupported, unsupported},
		{"all flags", 0, 1, math.MaxUint32, unsupported, unsupported},
	} {
		for kind, want := range map[uint32]byte{typeDiscard: c.discard, typeWriteZeroes: c.zeroes} {
			if want == ok {
				continue // and done below
			}
			putRange(r.bytes(16), c.sector, c.count, c.flags)
			require.Equal(t, want, r.do(0, kind, 0, 16), "type %d: %s", kind, c.name)
		}
	}
	for _, kind := range []uint32{typeDiscard, typeWriteZeroes} {
		clear(r.bytes(4096))
		for _, n := range []int{0, 1, 15, 17, 24, 33 * 16, 4096} {
			require.EqualValues(t, ioErr, r.do(0, kind, 0, n), "%d bytes of ranges", n)
		}
		// A wrong range after good ones: nothing is done at all.
		putRange(r.bytes(16), 0, 8, 0)
		putRange(r.bytes(32)[16:], sectors, 1, 0)
		require.EqualValues(t, ioErr, r.do(0, kind, 0, 32))
		// As many as there may be, all empty.
		clear(r.bytes(32 * 16))
		require.EqualValues(t, ok, r.do(0, kind, 0, 32*16))
	}
	require.Equal(t, before, hash(t, path))

	d.Up(featureFlush) // not negotiated
	putRange(r.bytes(16), 0, 8, 0)
	require.EqualValues(t, unsupported, r.do(0, typeDiscard, 0, 16))
	require.EqualValues(t, unsupported, r.do(0, typeWriteZeroes, 0, 16))
	require.Equal(t, before, hash(t, path))
}

func TestHostile29OddRequests(t *testing.T) {
	d := attachFile(t, image(t, diskSize), blk.Options{}, blk.Config{Serial: "serial"})
	d.Up(all)
	r := newRequest(d, 4096)
	for n := range 20 {
		require.EqualValues(t, ioErr, r.do(0, typeGetID, 0, n), "identity in %d bytes", n)
	}
	require.Equal(t, make([]byte, 20), r.bytes(20))
	require.EqualValues(t, ok, r.do(0, typeGetID, 0, 4096))
	for _, kind := range []uint32{2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x8000_0000, math.MaxUint32} {
		require.EqualValues(t, unsupported, r.do(0, kind, 0, 512), "type %d", kind)
	}
	for n := range uint32(16) { // a header that is cut short
		r.header(typeIn, 0)
		bufs := r.bufs(512, true)
		bufs[0].Len = n
		require.EqualValues(t, 1, d.Do(0, bufs...))
		require.EqualValues(t, ioErr, d.Bytes(r.head+16, 1)[0])
	}
	// No data at all is no mistake.
	require.EqualValues(t, ok, r.do(0, typeIn, 0, 0))
	// Room for a status and nothing else, in the data's place.
	require.EqualValues(t, 1, d.Do(0, virtiotest.Buf{Addr: r.data, Len: 1, Write: true}))
	require.EqualValues(t, ioErr, r.bytes(1)[0])

	// No room for a status: the device cannot even say so.
	d.Rings[0].Add(r.bufs(0, false)[:1]...)
	d.Kick(0)
	require.True(t, virtiotest.Poll(d.NeedsReset))
	d.Up(all)
	exercise(d)
}

// TestHostile30ForeignHeaderStaysRaw: a guest that writes another format's header
// into its disk has a raw disk with those bytes, in this life and the next
// (GHSA-jmr4-g2hv-mjj6).
func TestHostile30ForeignHeaderStaysRaw(t *testing.T) {
	secret := image(t, 4096)
	for _, magic := range []string{"QFI\xfb\x00\x00\x00\x03", "KDMV\x01\x00\x00\x00", "conectix", "<<< Oracle VM VirtualBox Disk Image >>>", "vhdxfile"} {
		path := image(t, diskSize)
		header := make([]byte, 512)
		copy(header, magic)
		copy(header[64:], secret) // the name of a backing file
		for life := range 2 {
			f := open(t, path, blk.Options{})
			dev, err := blk.New(f, blk.Config{})
			require.NoError(t, err)
			d := virtiotest.Attach(t, dev)
			d.Up(all)
			require.EqualValues(t, diskSize/512, binary.LittleEndian.Uint64(d.Config(0, 8)))
			r := newRequest(d, 512)
			if life == 0 {
				copy(r.bytes(512), header)
				require.EqualValues(t, ok, r.do(0, typeOut, 0, 512))
				clear(r.bytes(512))
			}
			require.EqualValues(t, ok, r.do(0, typeIn, 0, 512))
			require.Equal(t, header, r.bytes(512))
			require.NoError(t, d.Transport.Close())
			require.NoError(t, dev.Close())
		}
	}
}

func TestHostile31TruncatedFile(t *testing.T) {
	path := image(t, diskSize)
	d := attachFile(t, path, blk.Options{ReadOnly: true}, blk.Config{})
	d.Up(all & d.Offered())
	require.NoError(t, os.Truncate(path, 1000))
	r := newRequest(d, 4096)
	require.EqualValues(t, ok, r.do(0, typeIn, 0, 512))
	for _, sector := range []uint64{1, 2, 100} { // the first of them in part
		require.EqualValues(t, ioErr, r.do(0, typeIn, sector, 4096))
	}
	require.False(t, d.NeedsReset(), "the guest is not to blame")
}

func TestHostile31FailingDisk(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EBADF} {
		mem := newMemDisk(diskSize)
		var mu sync.Mutex
		var lines []string
		log := func(f string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf(f, args...))
		}
		dev := device(t, mem, blk.Config{Log: log})
		d := virtiotest.Attach(t, dev)
		mem.err = os.NewSyscallError("pwritev", errno)
		d.Up(all)
		r := newRequest(d, 512)
		for range 50 {
			for _, kind := range []uint32{typeIn, typeOut, typeFlush, typeDiscard, typeWriteZeroes} {
				n := map[uint32]int{typeIn: 512, typeOut: 512, typeDiscard: 16, typeWriteZeroes: 16}[kind]
				putRange(r.bytes(16), 0, 1, 0)
				require.EqualValues(t, ioErr, r.do(0, kind, 0, n), "type %d: %v", kind, errno)
			}
		}
		require.EqualValues(t, 250, dev.Counters().HostErrors)
		mu.Lock()
		require.NotEmpty(t, lines)
		require.Less(t, len(lines), 50)
		require.Contains(t, lines[0], errno.Error())
		mu.Unlock()
		require.False(t, d.NeedsReset())
		d.Reset()
		mem.err = nil
		d.Up(all)
		exercise(d)
	}
	mem := newMemDisk(diskSize)
	mem.err = errors.ErrUnsupported
	d := virtiotest.Attach(t, device(t, mem, blk.Config{}))
	d.Up(all)
	r := newRequest(d, 512)
	putRange(r.bytes(16), 0, 1, 0)
	require.EqualValues(t, unsupported, r.do(0, typeDiscard, 0, 16))
}

// TestHostile31SlowDisk: while one disk hangs, its notifications return at once,
// and other devices and other queues work.
func TestHostile31SlowDisk(t *testing.T) {
	slow := newMemDisk(diskSize)
	slow.hold = make(chan struct{})
	d := virtiotest.Attach(t, device(t, slow, blk.Config{Queues: 2}))
	d.Up(all)
	r := newRequest(d, 512)
	r.header(typeIn, 0)
	d.Rings[0].Add(r.bufs(512, true)...)
	d.Kick(0)
	require.True(t, virtiotest.Poll(func() bool { return slow.waiting.Load() == 1 }))
	for range 1000 {
		d.Write(virtiotest.RegQueueNotify, 0) // a vCPU that had to wait would wait for ever
		d.Config(0, 8)
	}
	id := newRequest(d, 512)
	require.EqualValues(t, ok, id.do(1, typeGetID, 0, 20), "the other queue")
	other := virtiotest.Attach(t, suite.New(t))
	other.Up(all)
	exercise(other)
	_, done := d.Rings[0].Reap()
	require.False(t, done)
	close(slow.hold)
	_, done = d.WaitUsed(0)
	require.True(t, done)
}

func TestHostile32SecondWriterRefused(t *testing.T) {
	path := image(t, diskSize)
	first := open(t, path, blk.Options{})
	for _, o := range []blk.Options{{}, {ReadOnly: true}} {
		_, err := blk.OpenFile(path, o)
		require.ErrorIs(t, err, blk.ErrInUse)
		require.ErrorContains(t, err, path)
	}
	require.NoError(t, first.Close())
	a, b := open(t, path, blk.Options{ReadOnly: true}), open(t, path, blk.Options{ReadOnly: true})
	_, err := blk.OpenFile(path, blk.Options{})
	require.ErrorIs(t, err, blk.ErrInUse, "readers must not see it change")
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	require.NoError(t, open(t, path, blk.Options{}).Close())
}

func FuzzDriver(f *testing.F) {
	var seeds [][]byte
	for _, kind := range []byte{typeIn, typeOut, typeFlush, typeGetID, typeDiscard, typeWriteZeroes} {
		h := make([]byte, 48)
		h[0] = kind
		h[8] = 4
		putRange(h[16:], 8, 8, 0)
		seeds = append(seeds, h, h[:16], h[:32])
	}
	virtiotest.FuzzDevice(f, virtiotest.Suite{
		New:      func(t testing.TB) virtio.Device { return device(t, newMemDisk(diskSize), blk.Config{QueueSize: 16}) },
		Exercise: exercise,
	}, seeds...)
}
