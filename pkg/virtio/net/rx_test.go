package net_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

var tsoToGuest = net.Header{Flags: net.NeedsCsum, GSOType: net.GSOTCP4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}

func TestMergedBuffers(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(g.all())
	for _, size := range []int{1536, 2048, 4096, 65562} {
		for _, n := range []int{1514, size - hdrSize, size - hdrSize + 1, 2*size - hdrSize, 65549} {
			if n > 65549 {
				continue
			}
			need := (n + hdrSize + size - 1) / size
			g.post(0, need, size)
			f := toGuest(n)
			require.Equal(t, net.Sent, g.dev.Send(0, &tsoToGuest, [][]byte{f[:5], f[5:100], f[100:]}))
			g.dev.Flush(0)
			h, p, buffers := g.receive(0)
			require.Equal(t, tsoToGuest, h)
			require.Equal(t, need, buffers)
			require.Equal(t, f, p)
		}
	}
}

// TestFullKeepsBuffers: those that a large frame found stay for it, and for
// smaller ones before it.
func TestFullKeepsBuffers(t *testing.T) {
	h := &testHost{}
	g := attach(t, config(h))
	g.start(g.all())
	big, small := [][]byte{toGuest(9000)}, [][]byte{toGuest(100)}
	g.post(0, 4, 2048)
	n := h.readies(0)
	require.Equal(t, net.Full, g.dev.Send(0, &tsoToGuest, big))
	require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, small))
	require.Equal(t, net.Full, g.dev.Send(0, &tsoToGuest, big))
	_, p, _ := g.receive(0)
	require.Equal(t, small[0], p)
	g.post(0, 2, 2048)
	h.awaitReady(t, 0, n)
	require.Equal(t, net.Sent, g.dev.Send(0, &tsoToGuest, big))
	require.Equal(t, net.Full, g.dev.Send(0, &net.Header{}, small))
}

// TestBurstSharesAnInterrupt: Send does not interrupt, Flush does once.
func TestBurstSharesAnInterrupt(t *testing.T) {
	g := attach(t, config(&testHost{}))
	g.start(g.all())
	g.post(0, 64, 2048)
	before := g.Transport.Counters().Interrupts
	for range 64 {
		require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(60)}))
	}
	require.Equal(t, before, g.Transport.Counters().Interrupts)
	g.dev.Flush(0)
	g.dev.Flush(0)
	require.Equal(t, before+1, g.Transport.Counters().Interrupts)
}

// TestNoKicksWhileThereIsRoom: a guest that refills need not notify.
func TestNoKicksWhileThereIsRoom(t *testing.T) {
	for _, f := range []virtio.Features{fMrg, fMrg | ring} {
		g := attach(t, config(&testHost{}))
		g.start(f)
		g.post(0, 1, 2048) // with EVENT_IDX, the first is always asked for
		kicks := g.Transport.Counters().Notifications
		for range 100 {
			g.post(0, 1, 2048)
			require.Equal(t, net.Sent, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(60)}))
			g.dev.Flush(0)
			g.receive(0)
		}
		require.Equal(t, kicks, g.Transport.Counters().Notifications)
	}
}

func TestSendRefusesWhatWasNotAgreed(t *testing.T) {
	g := attach(t, config(&testHost{}))
	require.Equal(t, net.Down, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(60)}), "no driver")
	require.Zero(t, g.dev.Offloads())
	require.Zero(t, g.dev.Pairs())
	valid := net.Header{Flags: net.DataValid}
	csum := net.Header{Flags: net.NeedsCsum, CsumStart: 34, CsumOffset: 16}
	for _, c := range []struct {
		features virtio.Features
		offloads net.Offloads
	}{
		{0, 0},
		{fGuestTSO4 | fGuestTSO6, 0},
		{fGuestCsum, net.OffloadCsum},
		{fGuestCsum | fGuestUSO4, net.OffloadCsum},
		{fGuestCsum | fGuestTSO4, net.OffloadCsum | net.OffloadTSO4},
		{g.all(), net.AllOffloads},
	} {
		g.start(c.features)
		require.Equal(t, c.offloads, g.dev.Offloads())
		require.Equal(t, 1, g.dev.Pairs())
		g.post(0, 8, 8192)
		want := map[bool]net.Status{true: net.Sent, false: net.Down}
		refused := g.dev.Counters().Refused
		require.Equal(t, want[c.offloads.Has(net.OffloadCsum)], g.dev.Send(0, &csum, [][]byte{toGuest(60)}))
		require.Equal(t, want[c.offloads.Has(net.OffloadTSO4)], g.dev.Send(0, &tsoToGuest, [][]byte{toGuest(4000)}))
		for _, bad := range []struct {
			h net.Header
			n int
		}{
			{net.Header{}, 13},
			{net.Header{}, 1515},
			{tsoToGuest, 65550},
			{net.Header{Flags: net.NeedsCsum, CsumStart: 50, CsumOffset: 9}, 60},
			{net.Header{GSOType: 2, GSOSize: 100}, 60},
			{net.Header{GSOType: net.GSOTCP4}, 60},
		} {
			require.Equal(t, net.Down, g.dev.Send(0, &bad.h, [][]byte{toGuest(bad.n)}))
		}
		require.Greater(t, g.dev.Counters().Refused, refused+5)
		if c.offloads == 0 {
			require.Equal(t, net.Sent, g.dev.Send(0, &valid, [][]byte{toGuest(60)}))
			g.dev.Flush(0)
			h, _, _ := g.receive(0)
			require.Zero(t, h.Flags, "nobody agreed on DATA_VALID")
		}
	}
	for _, q := range []int{-1, 1, 1 << 40} {
		require.Equal(t, net.Down, g.dev.Send(q, &net.Header{}, [][]byte{toGuest(60)}))
		g.dev.Flush(q)
	}
	g.Reset()
	require.Equal(t, net.Down, g.dev.Send(0, &net.Header{}, [][]byte{toGuest(60)}))
	require.Zero(t, g.dev.Offloads())
	g.dev.Flush(0)
}

// TestSendDuringReset: frames from many goroutines while the driver comes and goes.
func TestSendDuringReset(t *testing.T) {
	var dev atomic.Pointer[net.Device]
	h := &testHost{}
	send := func(q int) {
		if d := dev.Load(); d != nil {
			for range 4 {
				d.Send(q, &net.Header{}, [][]byte{toGuest(1514)})
			}
			d.Flush(q)
		}
	}
	h.onReceive = func(q int, _ *net.Header, _ [][]byte) { send(q) }
	h.onReady = send
	c := config(h)
	c.Queues = 2
	g := attach(t, c)
	dev.Store(g.dev)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for q := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					send(q)
					g.dev.Offloads()
					g.dev.Counters()
				}
			}
		}()
	}
	for range 300 {
		g.Up(g.all())
		g.alloc()
		g.post(0, 64, 2048)
		g.post(1, 64, 2048)
		p := append(make([]byte, hdrSize), fromGuest(60)...)
		copy(g.Bytes(g.out, len(p)), p)
		for q := range 2 {
			g.Rings[2*q+1].Add(virtiotest.Buf{Addr: g.out, Len: uint32(len(p))})
			g.Kick(2*q + 1)
		}
		g.pairs(2)
		g.Reset()
		used, err := g.Mem.LoadUint16(g.Rings[0].Used + 2)
		require.NoError(t, err)
		now, err := g.Mem.LoadUint16(g.Rings[0].Used + 2)
		require.NoError(t, err)
		require.Equal(t, used, now, "used after a reset")
	}
	close(stop)
	wg.Wait()
	require.False(t, g.NeedsReset())
}

func TestNoAllocations(t *testing.T) {
	h := &testHost{onReceive: func(int, *net.Header, [][]byte) {}}
	g := attach(t, config(h))
	g.start(g.all())
	t.Run("from the guest", func(t *testing.T) {
		p := append(encode(net.Header{}, 0), fromGuest(1514)...)
		copy(g.Bytes(g.out, len(p)), p)
		bufs := []virtiotest.Buf{{Addr: g.out, Len: hdrSize}, {Addr: g.out + hdrSize, Len: 1514}}
		virtiotest.NoAllocations(t, func() { g.Do(1, bufs...) })
	})
	for name, n := range map[string]int{"small to the guest": 1514, "large to the guest": 60000} {
		t.Run(name, func(t *testing.T) {
			v := [][]byte{toGuest(54), toGuest(n)[54:]}
			need := (n + hdrSize + 2047) / 2048
			buf := []virtiotest.Buf{{Addr: g.in, Len: 2048, Write: true}}
			hdr := tsoToGuest
			virtiotest.NoAllocations(t, func() {
				for range need {
					g.Rings[0].Add(buf...)
				}
				if g.dev.Send(0, &hdr, v) != net.Sent {
					panic("not sent")
				}
				g.dev.Flush(0)
				for range need {
					g.WaitUsed(0)
				}
			})
		})
	}
}

// TestHostile16NoLostWakeup: a host with more frames than the guest has buffers
// goes on whenever there are some, and the guest hears of all that came.
func TestHostile16NoLostWakeup(t *testing.T) {
	const frames = 20_000
	for _, f := range []virtio.Features{fMrg, fMrg | ring, ring} {
		ready := make(chan struct{}, 1)
		h := &testHost{onReady: func(int) {
			select {
			case ready <- struct{}{}:
			default:
			}
		}}
		g := attach(t, config(h))
		g.start(f)
		done := make(chan error, 1)
		go func() {
			v := [][]byte{toGuest(60)}
			for i := 0; i < frames; {
				switch g.dev.Send(0, &net.Header{}, v) {
				case net.Sent:
					if i++; i%3 == 0 {
						g.dev.Flush(0)
					}
				case net.Full:
					<-ready
				case net.Down:
					done <- errors.New("down")
					return
				}
			}
			g.dev.Flush(0)
			done <- nil
		}()
		g.post(0, 4, 2048)
		for range frames {
			u, ok := g.WaitUsed(0)
			require.True(t, ok)
			require.EqualValues(t, 60+hdrSize, u.Len)
			g.Rings[0].Add(virtiotest.Buf{Addr: g.in, Len: 2048, Write: true})
			g.Kick(0)
		}
		require.NoError(t, <-done)
	}
}
