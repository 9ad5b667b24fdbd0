package netstack

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// pairedCard is a card with two queue pairs, each of which may have no room.
type pairedCard struct {
	hostileCard
	mu    sync.Mutex
	pairs int
	full  [2]bool
	sent  [2]int // frames
}

func (c *pairedCard) Pairs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pairs
}

func (c *pairedCard) Send(q int, h *vnet.Header, v [][]byte) vnet.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full[q] {
		return vnet.Full
	}
	c.sent[q]++
	return c.hostileCard.Send(0, h, v)
}

func (c *pairedCard) set(pairs int, full ...bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pairs, c.full = pairs, [2]bool(full)
}

func newPaired(t *testing.T, pairs int) (*hostileGuest, *pairedCard) {
	card := &pairedCard{pairs: pairs}
	h := newHostileWith(t, Config{Queues: pairs}, func(c hostileCard) NIC {
		card.hostileCard = c
		return card
	})
	return h, card
}

// paired is a guest with two queue pairs, and an open connection whose frames to it go by
// the second.
func paired(t *testing.T) (*pairedCard, *rawTCP, *net.TCPConn) {
	h, card := newPaired(t, 2)
	to, conns := scripted(t)
	src := uint16(4000)
	if (src^to.Port())%2 == 0 {
		src++
	}
	c := h.raw(src, to)
	c.open()
	far := <-conns
	t.Cleanup(func() { far.Close() })
	c.opened()
	return card, c, far
}

// flow is the connection as the network has it.
func (c *rawTCP) flow() *tcpFlow {
	f := c.h.net.tcp.find(flowKey{netip.AddrPortFrom(Guest4, c.src), c.dst})
	require.NotNil(c.h.t, f)
	return f
}

// opened waits until the network has seen the end of the handshake.
func (c *rawTCP) opened() {
	require.Eventually(c.h.t, func() bool { return c.h.net.Stats().TCPActive == 1 }, waitLong, tick)
}

func (c *rawTCP) isBlocked() bool {
	f := c.flow()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blocked
}

// TestTCPPairs has frames come by one pair and go by the other, and by one alone.
func TestTCPPairs(t *testing.T) {
	card, c, far := paired(t)
	bells := make(chan struct{})
	go func() { // the second pair's goroutine
		for range bells {
			c.h.net.link.net.tcp.acknowledge(1, true)
		}
	}()
	defer close(bells)
	f := c.flow()
	f.take(1, &segment{seq: c.seq, ack: c.ack, flags: flagAck, window: 65535, shift: noScale}, [][]byte{[]byte("hello")})
	c.seq += 5
	requireRead(t, far, "hello")
	bells <- struct{}{}
	require.Equal(t, c.seq, c.hear().ack)
	card.mu.Lock()
	require.Equal(t, [2]int{0, 2}, card.sent, "the handshake and the acknowledgement")
	card.mu.Unlock()

	card.set(2, false, true)
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	require.Eventually(t, c.isBlocked, waitLong, tick)
	card.set(1, false, false) // the guest goes on with one pair
	c.h.net.link.Ready(0)
	require.Equal(t, "hello", string(c.hear().payload))
	c.ack += 5

	// What the pair that is gone owes is paid by the other.
	f.take(1, &segment{seq: c.seq, ack: c.ack, flags: flagAck, window: 65535, shift: noScale}, [][]byte{[]byte("x")})
	c.seq++
	c.h.bell.Ring()
	require.Equal(t, c.seq, c.hear().ack)
}

// TestTCPRoomForAll has two connections wait for the same room.
func TestTCPRoomForAll(t *testing.T) {
	h, card := newPaired(t, 1)
	to, conns := scripted(t)
	a := h.raw(4000, to)
	a.open()
	b := &rawTCP{h: h, src: 4001, dst: to, got: a.got, seq: 77, window: 65535}
	b.open()
	farA, farB := <-conns, <-conns
	require.Eventually(t, func() bool { return h.net.Stats().TCPActive == 2 }, waitLong, tick)
	card.set(1, true, true)
	_, err := farA.Write([]byte("a"))
	require.NoError(t, err)
	_, err = farB.Write([]byte("b"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return a.isBlocked() && b.isBlocked() }, waitLong, tick)
	h.net.link.Ready(0) // in vain
	require.True(t, a.isBlocked() && b.isBlocked())
	card.set(1, false, false)
	h.net.link.Ready(0)
	require.Len(t, string(a.hear().payload)+string(a.hear().payload), 2)
	farA.Close()
	farB.Close()
}

// TestTCPNoRoom has no room in the guest's ring for what is said once only: it comes when
// there is some.
func TestTCPNoRoom(t *testing.T) {
	open := func(t *testing.T) (*pairedCard, *rawTCP, *net.TCPConn) {
		h, card := newPaired(t, 1)
		h.net.tcp.repeat = time.Hour
		to, conns := scripted(t)
		c := h.raw(4000, to)
		c.open()
		c.opened()
		return card, c, <-conns
	}
	t.Run("reset", func(t *testing.T) {
		card, c, far := open(t)
		card.set(1, true, true)
		far.SetLinger(0)
		far.Close()
		require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
		card.set(1, false, false)
		c.h.net.link.Ready(0)
		s := c.hear()
		require.NotZero(t, s.flags&flagRst)
		require.Equal(t, c.ack, s.seq)
	})
	t.Run("last acknowledgement", func(t *testing.T) {
		card, c, far := open(t)
		far.Close()
		require.NotZero(t, c.hear().flags&flagFin)
		c.ack++
		card.set(1, true, true)
		c.send(flagAck|flagFin, 0, "")
		require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
		card.set(1, false, false)
		c.h.net.link.Ready(0)
		require.Equal(t, c.seq+1, c.hear().ack)
	})
	t.Run("acknowledgement", func(t *testing.T) {
		card, c, far := open(t)
		card.set(1, true, true)
		c.say("hello")
		requireRead(t, far, "hello")
		require.Eventually(t, c.isBlocked, waitLong, tick)
		card.set(1, false, false)
		c.h.net.link.Ready(0)
		require.Equal(t, c.seq, c.hear().ack)
		far.Close()
	})
	t.Run("answer to a call", func(t *testing.T) {
		h, card := newPaired(t, 1)
		c := h.raw(80, netip.AddrPortFrom(Gateway4, firstCaller))
		p, err := h.net.AddPort(Port{Protocol: egress.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80})
		require.NoError(t, err)
		far, err := net.Dial("tcp", p.Host.String())
		require.NoError(t, err)
		defer far.Close()
		c.ack = c.hear().seq + 1
		card.set(1, true, true)
		c.send(flagSyn|flagAck, 0, "")
		require.Eventually(t, c.isBlocked, waitLong, tick)
		card.set(1, false, false)
		h.net.link.Ready(0)
		require.Equal(t, c.seq+1, c.hear().ack)
	})
}

// TestTCPLittleMemory has others take all the memory: the guest is offered what there is.
func TestTCPLittleMemory(t *testing.T) {
	c, far := rawOpen(t)
	c.opened()
	m := &c.h.net.tcp.memory
	m.used.Add(ringTotal)
	defer m.used.Add(-ringTotal)
	f := c.flow()
	held := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.in.n
	}
	total := 0
	for held() < minRing {
		const n = 32 << 10
		begin := c.seq
		c.say(string(make([]byte, n)))
		c.seq = c.hear().ack
		total += int(c.seq - begin)
	}
	require.Equal(t, minRing, held())
	f.mu.Lock()
	require.Zero(t, f.room(), "more is offered than there is room for")
	f.mu.Unlock()
	c.send(flagAck|flagFin, 0, "")
	c.seq++
	got, err := io.Copy(io.Discard, far)
	require.NoError(t, err)
	require.EqualValues(t, total, got)
}
