package net_test

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// dropped is how many frames of the guest were dropped, by cause.
func dropped(c net.Counters) map[string]uint64 {
	m := map[string]uint64{
		"malformed": c.Malformed, "short": c.Short, "long": c.Long, "header": c.BadHeader, "mac": c.WrongMAC, "vlan": c.VLAN,
	}
	for k, n := range m {
		if n == 0 {
			delete(m, k)
		}
	}
	return m
}

func TestHostile33BadFrames(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	tso := net.Header{Flags: net.NeedsCsum, GSOType: net.GSOTCP4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	uso := net.Header{Flags: net.NeedsCsum, GSOType: net.GSOUDP, GSOSize: 100, HdrLen: 42, CsumStart: 34, CsumOffset: 6}
	with := func(h net.Header, f func(*net.Header)) net.Header { f(&h); return h }
	csum := func(start, offset uint16) net.Header {
		return net.Header{Flags: net.NeedsCsum, CsumStart: start, CsumOffset: offset}
	}
	for _, c := range []struct {
		name  string
		h     net.Header
		n     int
		cause string // or none
	}{
		{"empty", net.Header{}, 0, "short"},
		{"13 bytes", net.Header{}, 13, "short"},
		{"14 bytes", net.Header{}, 14, ""},
		{"as the MTU says", net.Header{}, 1514, ""},
		{"beyond the MTU", net.Header{}, 1515, "long"},
		{"65,562 bytes", tso, 65562, "long"},
		{"65,549 bytes", tso, 65549, ""},
		{"65,550 bytes", tso, 65550, "long"},
		{"checksum at the end", csum(34, 24), 60, ""},
		{"checksum over the end", csum(34, 25), 60, "header"},
		{"checksum in the Ethernet header", csum(13, 0), 60, "header"},
		{"checksum beyond the frame", csum(61, 0), 60, "header"},
		{"checksum sum wraps 16 bits", csum(0xffff, 0xffff), 60, "header"},
		{"checksum not asked for", net.Header{CsumStart: 0xffff, CsumOffset: 0xffff}, 60, ""},
		{"gso_size 0", with(tso, func(h *net.Header) { h.GSOSize = 0 }), 3000, "header"},
		{"unknown gso_type", with(tso, func(h *net.Header) { h.GSOType = 2 }), 3000, "header"},
		{"UFO", with(uso, func(h *net.Header) { h.GSOType = 3 }), 3000, "header"},
		{"ECN", with(tso, func(h *net.Header) { h.GSOType |= 0x80 }), 3000, "header"},
		{"gso_type 255", with(tso, func(h *net.Header) { h.GSOType = 0xff }), 3000, "header"},
		{"segments without checksum", with(tso, func(h *net.Header) { h.Flags = 0 }), 3000, "header"},
		{"TCP with a checksum elsewhere", with(tso, func(h *net.Header) { h.CsumOffset = 6 }), 3000, "header"},
		{"TCP header cut short", tso, 53, "header"},
		{"UDP with a checksum elsewhere", with(uso, func(h *net.Header) { h.CsumOffset = 16 }), 3000, "header"},
		{"UDP header cut short", uso, 41, "header"},
		{"128 datagrams", uso, 42 + 12800, ""},
		{"129 datagrams", uso, 42 + 12801, "header"},
		{"one byte a datagram", with(uso, func(h *net.Header) { h.GSOSize = 1 }), 60000, "header"},
		{"hdr_len beyond the frame", net.Header{HdrLen: 0xffff}, 60, ""},
		{"hdr_len in the Ethernet header", with(tso, func(h *net.Header) { h.HdrLen = 1 }), 3000, ""},
		{"all flags", net.Header{Flags: 0xfe}, 60, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.T = t
			g.start(g.all())
			before := g.dev.Counters()
			g.send(0, c.h, fromGuest(c.n))
			after := g.dev.Counters()
			if c.cause == "" {
				f := h.taken()
				require.Len(t, f, 1)
				require.Equal(t, fromGuest(c.n), f[0].frame)
				require.LessOrEqual(t, int(f[0].h.HdrLen), c.n)
				require.Zero(t, f[0].h.Flags&^net.NeedsCsum)
				require.Equal(t, before.FromGuest+1, after.FromGuest)
				return
			}
			require.Empty(t, h.taken())
			require.Equal(t, dropped(before)[c.cause]+1, dropped(after)[c.cause])
			g.send(0, net.Header{}, fromGuest(60))
			require.Len(t, h.taken(), 1, "a good frame after it")
		})
	}
	require.False(t, g.NeedsReset())
}

func TestHostile33NotAgreed(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	tso := net.Header{Flags: net.NeedsCsum, GSOType: net.GSOTCP4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	for _, f := range []virtio.Features{0, fHostTSO4, fCsum} { // segmentation needs checksums
		g.start(f)
		before := g.dev.Counters().BadHeader
		g.send(0, tso, fromGuest(3000))
		require.Empty(t, h.taken())
		require.Equal(t, before+1, g.dev.Counters().BadHeader)
	}
	g.start(0)
	g.send(0, net.Header{Flags: net.NeedsCsum, CsumStart: 34, CsumOffset: 16}, fromGuest(60))
	require.Empty(t, h.taken())
}

func TestHostile33BadBuffers(t *testing.T) {
	h := &testHost{}
	c := config(h)
	c.Log = func(string, ...any) {}
	g := attach(t, c)
	g.start(g.all())
	for n := range hdrSize {
		g.sendRaw(0, make([]byte, max(n, 1)))
	}
	require.EqualValues(t, hdrSize, g.dev.Counters().Malformed)

	p := append(make([]byte, hdrSize), fromGuest(60)...)
	copy(g.Bytes(g.out, len(p)), p)
	g.Do(1, virtiotest.Buf{Addr: g.out, Len: uint32(len(p))}, virtiotest.Buf{Addr: g.in, Len: 10, Write: true})
	require.EqualValues(t, hdrSize+1, g.dev.Counters().Malformed, "a chain with room for an answer")
	require.Empty(t, h.taken())

	// 1 MiB, and 4 GiB less what the ring says: never looked at.
	g.Do(1, virtiotest.Buf{Addr: g.in, Len: 1 << 20})
	require.EqualValues(t, 1, g.dev.Counters().Long)
	var big []virtiotest.Buf
	for range 255 {
		big = append(big, virtiotest.Buf{Addr: 0, Len: 16 << 20})
	}
	g.Do(1, big...)
	require.EqualValues(t, 2, g.dev.Counters().Long)

	// Any layout will do (§2.7.4).
	for i := 1; i < len(p); i++ {
		g.Do(1, virtiotest.Buf{Addr: g.out, Len: uint32(i)}, virtiotest.Buf{Addr: g.out + guestmem.GPA(i), Len: uint32(len(p) - i)})
		require.Equal(t, []got{{frame: fromGuest(60)}}, h.taken())
	}
	var bytes []virtiotest.Buf
	for i := range p {
		bytes = append(bytes, virtiotest.Buf{Addr: g.out + guestmem.GPA(i), Len: 1})
	}
	g.Do(1, bytes...)
	require.Equal(t, []got{{frame: fromGuest(60)}}, h.taken())
}

func TestHostile34SourceAndVLAN(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	g.start(g.all())
	for i := range 6 {
		for bit := range 8 {
			src := guestMAC
			src[i] ^= 1 << bit
			g.send(0, net.Header{}, frame(hostMAC, src, 60))
		}
	}
	require.Empty(t, h.taken())
	require.EqualValues(t, 48, g.dev.Counters().WrongMAC)
	for _, typ := range []uint16{0x8100, 0x88a8} {
		for _, n := range []int{14, 18, 60} {
			f := fromGuest(n)
			binary.BigEndian.PutUint16(f[12:], typ)
			g.send(0, net.Header{}, f)
		}
	}
	require.Empty(t, h.taken())
	require.EqualValues(t, 6, g.dev.Counters().VLAN)
	g.send(0, net.Header{}, frame([6]byte{255, 255, 255, 255, 255, 255}, guestMAC, 60))
	require.Len(t, h.taken(), 1, "it may send to anybody")
}

// TestHostile34HeaderRewritten: what was judged is what the host sees, however
// often the guest changes its mind.
func TestHostile34HeaderRewritten(t *testing.T) {
	h := &testHost{}
	var g *guest
	var bad [][]byte
	h.onReceive = func(_ int, _ *net.Header, v [][]byte) {
		// The guest writes another source and tag while the host looks.
		copy(g.Bytes(g.out+hdrSize+6, 8), []byte{1, 2, 3, 4, 5, 6, 0x81, 0x00})
		if len(v[0]) != ethSize || [6]byte(v[0][6:12]) != guestMAC || v[0][12] != 0x08 {
			bad = append(bad, slices.Concat(v...))
		}
	}
	g = attach(t, config(h))
	g.start(g.all())
	for range 100 {
		g.send(0, net.Header{}, fromGuest(60))
	}
	require.Empty(t, bad)
	require.EqualValues(t, 100, g.dev.Counters().FromGuest)
}

func TestHostile35NeverRefilled(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	g.start(g.all())
	g.post(0, 8, 2048)
	f := [][]byte{toGuest(1514)}
	var hdr net.Header
	for range 8 {
		require.Equal(t, net.Sent, g.dev.Send(0, &hdr, f))
	}
	ready := h.readies(0)
	virtiotest.NoAllocations(t, func() {
		for range 100 {
			if g.dev.Send(0, &hdr, f) != net.Full {
				panic("not full")
			}
		}
	})
	require.Equal(t, ready, h.readies(0))
	for range 8 { // the interrupt came without a Flush
		_, p, _ := g.receive(0)
		require.Equal(t, f[0], p)
	}
	for range 3 {
		g.post(0, 8, 2048)
		h.awaitReady(t, 0, ready)
		ready = h.readies(0)
		for range 8 {
			require.Equal(t, net.Sent, g.dev.Send(0, &hdr, f))
		}
		require.Equal(t, net.Full, g.dev.Send(0, &hdr, f))
		for range 8 {
			g.receive(0)
		}
	}
	require.Equal(t, ready, h.readies(0), "told once each time")
}

// TestHostile35UselessBuffers: buffers that hold no frame cost a bounded amount of
// work, and good ones after them get frames again.
func TestHostile35UselessBuffers(t *testing.T) {
	for _, c := range []struct {
		name     string
		features virtio.Features
		size     int
		frame    int
	}{
		{"one byte", fMrg, 1, 1514},
		{"one byte, not merged", 0, 1, 1514},
		{"header only, merged", fMrg, 12, 1514},
		{"13 bytes, merged", fMrg, 13, 1514},
		{"26 bytes, not merged", 0, 26, 1514},
		{"100 bytes, not merged", 0, 100, 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &testHost{}
			g := attach(t, config(h))
			g.start(ring | c.features)
			f := [][]byte{toGuest(c.frame)}
			for range 4 {
				g.post(0, 256, c.size)
				lost := 0
				for st := net.Down; st != net.Full; lost++ {
					st = g.dev.Send(0, &net.Header{}, f)
					require.NotEqual(t, net.Sent, st)
					require.Less(t, lost, 300)
				}
				for range 256 {
					u, ok := g.WaitUsed(0)
					require.True(t, ok)
					require.Zero(t, u.Len)
				}
			}
			g.post(0, 4, 2048)
			for {
				n := h.readies(0)
				if g.dev.Send(0, &net.Header{}, f) == net.Sent {
					break
				}
				h.awaitReady(t, 0, n)
			}
			g.dev.Flush(0)
			_, p, _ := g.receive(0)
			require.Equal(t, f[0], p)
			require.NotZero(t, g.dev.Counters().NoRoom+g.dev.Counters().BadBuffers)
		})
	}
}

// TestHostile35RingTooSmall: a frame that all the driver's buffers together
// cannot hold is lost, rather than waited for.
func TestHostile35RingTooSmall(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.Negotiate(fMrg)
	g.SetupQueue(0, 4, false)
	g.SetupQueue(1, 4, false)
	g.Start()
	g.alloc()
	g.post(0, 4, 300)
	require.Equal(t, net.Down, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(1514)}))
	require.EqualValues(t, 1, g.dev.Counters().NoRoom)
	for range 4 {
		u, ok := g.WaitUsed(0)
		require.True(t, ok)
		require.Zero(t, u.Len)
	}
	g.post(0, 4, 300)
	require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(1000)}))
}

// TestHostileManyPieces: a buffer of as many descriptors as can be.
func TestHostileManyPieces(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(ring)
	add := func(n, size int) {
		var bufs []virtiotest.Buf
		for i := range n {
			bufs = append(bufs, virtiotest.Buf{Addr: g.in + guestmem.GPA(i*size), Len: uint32(size), Write: true})
		}
		g.Rings[0].AddIndirect(g.Mem, g.cmd, bufs...)
	}
	add(256, 8)
	require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(500)}))
	require.Equal(t, toGuest(500), g.Bytes(g.in+hdrSize, 500))
	add(256, 1)
	require.Equal(t, net.Down, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(100)}), "only so many are used")
}

func TestHostile57LogIsBounded(t *testing.T) {
	var lines atomic.Int64
	c := config(&testHost{})
	c.Log = func(string, ...any) { lines.Add(1) }
	g := attach(t, c)
	g.start(g.all())
	for range 1000 {
		g.send(0, net.Header{}, frame(hostMAC, hostMAC, 60))
	}
	require.EqualValues(t, 1000, g.dev.Counters().WrongMAC)
	require.NotZero(t, lines.Load())
	require.Less(t, lines.Load(), int64(20))
}
