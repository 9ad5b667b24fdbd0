package net_test

import (
	"fmt"
	"testing"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// BenchmarkSend stores frames in buffers of 4 KiB, 16 between two refills.
func BenchmarkSend(b *testing.B) {
	for _, n := range []int{60, 1514, 60000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := attach(b, config(&testHost{}))
			g.start(g.all())
			v, hdr := [][]byte{toGuest(54), toGuest(n)[54:]}, tsoToGuest
			need := (n + hdrSize + 4095) / 4096
			var bufs [256][]virtiotest.Buf
			for i := range bufs {
				bufs[i] = []virtiotest.Buf{{Addr: g.in + guestmem.GPA(i)*4096, Len: 4096, Write: true}}
			}
			r := g.Rings[0]
			r.RefuseInterrupts()
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%16 == 0 {
					for k := range 16 * need {
						r.Add(bufs[k%len(bufs)]...)
					}
				}
				if g.dev.Send(0, &hdr, v) != net.Sent {
					b.Fatal("not sent")
				}
				for range need {
					r.Reap()
				}
				r.RefuseInterrupts()
			}
		})
	}
}

// BenchmarkReceive hands frames of the guest to the host, 32 to a notification.
func BenchmarkReceive(b *testing.B) {
	for _, n := range []int{60, 1514, 60000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := &testHost{onReceive: func(int, *net.Header, [][]byte) {}}
			g := attach(b, config(h))
			g.start(g.all())
			hdr := net.Header{Flags: net.NeedsCsum, GSOType: net.GSOTCP4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
			if n == 60 {
				hdr = net.Header{}
			}
			p := append(encode(hdr, 0), fromGuest(n)...)
			copy(g.Bytes(g.out, len(p)), p)
			bufs := []virtiotest.Buf{{Addr: g.out, Len: 66}, {Addr: g.out + 66, Len: uint32(len(p) - 66)}}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g.Rings[1].Add(bufs...)
				if i%32 == 31 {
					g.Kick(1)
					for range 32 {
						g.WaitUsed(1)
					}
				}
			}
		})
	}
}
