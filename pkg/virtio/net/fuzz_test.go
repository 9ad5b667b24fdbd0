package net_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// FuzzDevice makes the fuzzer a driver that does anything to registers and rings.
func FuzzDevice(f *testing.F) {
	s := suite(1)
	virtiotest.FuzzDevice(f, s,
		append(make([]byte, hdrSize), fromGuest(60)...),
		append(encode(net.Header{Flags: net.NeedsCsum, GSOType: net.GSOTCP4, GSOSize: 100, CsumStart: 34, CsumOffset: 16}, 0), fromGuest(200)...),
		append([]byte{1, 1}, guestMAC[:]...),
		[]byte{4, 0, 1, 0},
	)
}

// strict is a host that believes what the device promises.
func strict(complain func(string)) *testHost {
	return &testHost{onReceive: func(_ int, h *net.Header, v [][]byte) {
		if len(v) == 0 || len(v[0]) != ethSize {
			complain("the first piece is not the Ethernet header")
			return
		}
		f := slices.Concat(v...)
		n := len(f)
		typ := binary.BigEndian.Uint16(f[12:])
		csum := h.Flags&net.NeedsCsum != 0
		gso := h.GSOType != net.GSONone
		for what, bad := range map[string]bool{
			"size":               n > 65549 || !gso && n > 1514,
			"source":             [6]byte(f[6:12]) != guestMAC,
			"VLAN":               typ == 0x8100 || typ == 0x88a8,
			"flags":              h.Flags&^net.NeedsCsum != 0,
			"hdr_len":            int(h.HdrLen) > n,
			"checksum":           csum && (h.CsumStart < ethSize || int(h.CsumStart)+int(h.CsumOffset)+2 > n),
			"no checksum":        !csum && (gso || h.CsumStart != 0 || h.CsumOffset != 0),
			"GSO type":           !slices.Contains([]uint8{net.GSONone, net.GSOTCP4, net.GSOTCP6, net.GSOUDP}, h.GSOType),
			"GSO size":           gso != (h.GSOSize != 0),
			"TCP header":         (h.GSOType == net.GSOTCP4 || h.GSOType == net.GSOTCP6) && int(h.CsumStart)+20 > n,
			"number of segments": h.GSOType == net.GSOUDP && n-int(h.CsumStart)-8 > 128*int(h.GSOSize),
		} {
			if bad {
				complain(what)
			}
		}
	}}
}

// FuzzTX lets the fuzzer write headers and frames, and cut them in two.
func FuzzTX(f *testing.F) {
	for _, h := range []net.Header{
		{}, {Flags: net.NeedsCsum, CsumStart: 34, CsumOffset: 16},
		{Flags: net.NeedsCsum, GSOType: net.GSOTCP6, HdrLen: 74, GSOSize: 1440, CsumStart: 54, CsumOffset: 16},
		{Flags: net.NeedsCsum, GSOType: net.GSOUDP, HdrLen: 42, GSOSize: 100, CsumStart: 34, CsumOffset: 6},
	} {
		for _, n := range []int{13, 14, 60, 1514, 3000} {
			f.Add(append(encode(h, 0), fromGuest(n)...), uint16(hdrSize))
		}
	}
	var wrong []string
	g := attach(f, config(strict(func(s string) { wrong = append(wrong, s) })))
	g.start(g.all())
	f.Fuzz(func(t *testing.T, p []byte, cut uint16) {
		g.T = t
		defer func() { g.T = f }()
		p = p[:min(len(p), 100<<10)]
		at := min(int(cut), len(p))
		copy(g.Bytes(g.out, len(p)), p)
		g.Do(1, virtiotest.Buf{Addr: g.out, Len: uint32(at)}, virtiotest.Buf{Addr: g.out + guestmem.GPA(at), Len: uint32(len(p) - at)})
		if len(wrong) > 0 {
			t.Fatalf("the host got what it must not: %q", wrong)
		}
	})
}

// FuzzControl lets the fuzzer write commands. All are answered, and none changes
// what may not change.
func FuzzControl(f *testing.F) {
	for _, p := range [][]byte{
		{0, 0, 1}, {0, 1, 0}, append([]byte{1, 1}, guestMAC[:]...), append([]byte{1, 0}, make([]byte, 8)...), {2, 0, 1, 0},
		{4, 0, 2, 0}, offloads(0), offloads(uint64(fGuestCsum | fGuestTSO4)), {3, 0},
	} {
		f.Add(p)
	}
	c := config(&testHost{})
	c.Queues = 2
	g := attach(f, c)
	g.start(g.all())
	f.Fuzz(func(t *testing.T, p []byte) {
		g.T = t
		defer func() { g.T = f }()
		if len(p) == 0 || len(p) > 60<<10 {
			return
		}
		if ack := g.command(4, p...); ack > 1 {
			t.Fatalf("answered with %d", ack)
		}
		if n := g.dev.Pairs(); n < 1 || n > 2 {
			t.Fatalf("%d pairs", n)
		}
		if o := g.dev.Offloads(); !net.AllOffloads.Has(o) || o != 0 && !o.Has(net.OffloadCsum) {
			t.Fatalf("offloads %#x", uint32(o))
		}
	})
}

// FuzzRX lets the fuzzer choose the buffers of the driver and the frames for it.
// Frames that were sent arrive as they were.
func FuzzRX(f *testing.F) {
	f.Add(true, []byte{0x80, 8, 0x80, 8, 0x81, 3, 0x80, 8, 0x81, 30})
	f.Add(false, []byte{0x80, 8, 0x80, 8, 0x81, 3, 0, 0, 0x81, 1})
	f.Add(true, []byte{0, 0, 0, 1, 0x81, 200})
	g := attach(f, config(&testHost{}))
	f.Fuzz(func(t *testing.T, merge bool, program []byte) {
		g.T = t
		defer func() { g.T = f }()
		features := ring | fGuestCsum | fGuestTSO4
		if merge {
			features |= fMrg
		}
		g.Up(features)
		g.alloc()
		next := 0
		var sent [][]byte
		for ; len(program) >= 2 && next < 100; program = program[2:] {
			op, v := program[0], int(program[1])
			if op == 0x81 { // a frame
				p := toGuest(v*200 + ethSize)
				if g.dev.Send(0, &tsoToGuest, [][]byte{p[:v/2], p[v/2:]}) == net.Sent {
					sent = append(sent, p)
				}
				continue
			}
			// A buffer, in two pieces.
			size := uint32(op&0x1f)<<8 | uint32(v)
			at := g.in + guestmem.GPA(next*8192)
			next++
			if g.Rings[0].Free() < 2 {
				continue
			}
			head := g.Rings[0].Add(
				virtiotest.Buf{Addr: at, Len: size / 3, Write: true}, virtiotest.Buf{Addr: at + guestmem.GPA(size/3), Len: size - size/3, Write: true})
			g.at[[2]int{0, int(head)}] = at
		}
		if g.NeedsReset() {
			t.Fatal("device wants a reset")
		}
		for _, want := range sent {
			var p []byte
			for left := 1; left > 0; {
				u, ok := g.Rings[0].Reap()
				if !ok {
					t.Fatalf("a frame of %d bytes is missing", len(want))
				}
				if u.Len == 0 {
					continue // useless to the device
				}
				b := g.Bytes(g.at[[2]int{0, int(u.Head)}], int(u.Len))
				if p == nil {
					_, left = decode(b)
				}
				p = append(p, b...)
				left--
			}
			if !slices.Equal(p[hdrSize:], want) {
				t.Fatalf("a frame of %d bytes arrived as another of %d", len(want), len(p)-hdrSize)
			}
		}
	})
}

var _ virtio.QueueEventer = (*net.Device)(nil)
