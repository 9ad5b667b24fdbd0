package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// rawTCP is a connection of which the test makes up each segment of the guest's.
type rawTCP struct {
	h        *hostileGuest
	src      uint16
	dst      netip.AddrPort
	seq, ack uint32
	window   uint16
	got      chan heardSegment
}

// heardSegment is one that the guest was sent.
type heardSegment struct {
	segment
	payload []byte
}

func (h *hostileGuest) raw(src uint16, dst netip.AddrPort) *rawTCP {
	c := &rawTCP{h: h, src: src, dst: dst, seq: 0xffff_fff0, window: 65535, got: make(chan heardSegment, 1024)}
	h.took = func(p []byte) {
		if p[9] != uint8(header.TCPProtocolNumber) {
			return
		}
		tcp := header.TCP(p[header.IPv4MinimumSize:])
		s := heardSegment{payload: bytes.Clone(tcp.Payload())}
		s.decode(tcp[:tcp.DataOffset()])
		c.got <- s
	}
	return c
}

// send gives the network a segment that begins so far after what was sent in order.
func (c *rawTCP) send(flags header.TCPFlags, off int, payload string) {
	p := packet(c.dst.Addr(), header.TCPProtocolNumber, func(b []byte) {
		copy(b[header.TCPMinimumSize:], payload)
		header.TCP(b).Encode(&header.TCPFields{
			SrcPort: c.src, DstPort: c.dst.Port(), SeqNum: c.seq + uint32(off), AckNum: c.ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: c.window,
		})
	}, header.TCPMinimumSize+len(payload), header.TCPChecksumOffset)
	c.h.send(p)
}

// say sends the next bytes.
func (c *rawTCP) say(payload string) {
	c.send(flagAck, 0, payload)
	c.seq += uint32(len(payload))
}

// hear waits for the next segment.
func (c *rawTCP) hear() heardSegment {
	c.h.t.Helper()
	select {
	case s := <-c.got:
		return s
	case <-time.After(waitLong):
		c.h.t.Fatal("nothing is said")
		return heardSegment{}
	}
}

// quiet requires that nothing is said for a while.
func (c *rawTCP) quiet() {
	c.h.t.Helper()
	select {
	case s := <-c.got:
		c.h.t.Fatalf("%+v", s)
	case <-time.After(20 * time.Millisecond):
	}
}

// open shakes hands.
func (c *rawTCP) open() {
	c.h.t.Helper()
	c.send(flagSyn, 0, "")
	c.seq++
	s := c.hear()
	require.Equal(c.h.t, flagSyn|flagAck, s.flags)
	require.Equal(c.h.t, c.seq, s.ack)
	c.ack = s.seq + 1
	c.send(flagAck, 0, "")
}

// scripted is a server whose connections the test has in its hands.
func scripted(t *testing.T) (netip.AddrPort, <-chan *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	conns := make(chan *net.TCPConn, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
		}
	}()
	return netip.AddrPortFrom(Host4, uint16(l.Addr().(*net.TCPAddr).Port)), conns
}

// rawOpen is a guest with an open connection, and its other end. Sequence numbers are
// about to begin anew either way.
func rawOpen(t *testing.T) (*rawTCP, *net.TCPConn) {
	h := newHostile(t, Config{})
	h.net.tcp.first = func(flowKey) uint32 { return 0xffff_fff8 }
	to, conns := scripted(t)
	c := h.raw(4000, to)
	c.open()
	far := <-conns
	t.Cleanup(func() { far.Close() })
	return c, far
}

func requireRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// TestTCPOrder has segments come late, again and overlapping.
func TestTCPOrder(t *testing.T) {
	c, far := rawOpen(t)
	c.send(flagAck, 6, "world") // too early
	require.Equal(t, c.seq, c.hear().ack)
	c.send(flagAck, 0, "hello ")
	requireRead(t, far, "hello ")
	require.Equal(t, c.seq+6, c.hear().ack)
	c.send(flagAck, 0, "hello ") // again
	require.Equal(t, c.seq+6, c.hear().ack)
	c.send(flagAck, 3, "lo wor") // overlapping
	requireRead(t, far, "wor")
	require.Equal(t, c.seq+9, c.hear().ack)
	c.seq += 9
	c.send(flagAck|flagFin, 2, "") // an end before all is there
	require.Equal(t, c.seq, c.hear().ack)
	c.send(flagAck|flagFin, -3, "world")
	requireRead(t, far, "ld")
	_, err := far.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.Equal(t, c.seq+3, c.hear().ack)
	c.send(flagAck|flagFin, -3, "world") // again
	require.Equal(t, c.seq+3, c.hear().ack)
	c.send(flagAck, 3, "after the end")
	require.Equal(t, c.seq+3, c.hear().ack)
}

// TestTCPAcknowledges has an answer acknowledge its request, and what has none be
// acknowledged all the same.
func TestTCPAcknowledges(t *testing.T) {
	c, far := rawOpen(t)
	c.say("x")
	s := c.hear()
	require.Equal(t, c.seq, s.ack)
	require.Empty(t, s.payload)
	c.quiet()
	for range 100 {
		c.say("x")
		_, err := far.Write([]byte("y"))
		require.NoError(t, err)
		for acked := false; !acked; {
			s := c.hear()
			acked = len(s.payload) > 0
			c.ack += uint32(len(s.payload))
		}
	}
	c.say(string(make([]byte, 2*shortSegment)))
	require.Equal(t, c.seq, c.hear().ack)
}

// TestTCPRepeats loses what goes to the guest.
func TestTCPRepeats(t *testing.T) {
	c, far := rawOpen(t)
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	for range 2 { // by time
		s := c.hear()
		require.Equal(t, c.ack, s.seq)
		require.Equal(t, "hello", string(s.payload))
	}
	c.ack += 2
	c.send(flagAck, 0, "")
	for range repeats { // by what the guest says again and again
		c.send(flagAck, 0, "")
	}
	s := c.hear()
	require.Equal(t, c.ack, s.seq)
	require.Equal(t, "llo", string(s.payload))
	c.ack += 3
	c.send(flagAck, 0, "")
	require.NoError(t, far.Close())
	for range 2 {
		s := c.hear()
		require.Equal(t, c.ack, s.seq)
		require.NotZero(t, s.flags&flagFin)
	}
	c.ack++
	c.send(flagAck|flagFin, 0, "")
	require.Equal(t, c.seq+1, c.hear().ack)
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
}

// TestTCPClosedWindow has a guest that takes nothing for a while.
func TestTCPClosedWindow(t *testing.T) {
	c, far := rawOpen(t)
	c.window = 0
	c.send(flagAck, 0, "")
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	for range 2 {
		s := c.hear()
		require.Equal(t, c.ack-1, s.seq, "a question")
		require.Empty(t, s.payload)
		c.send(flagAck, 0, "")
	}
	c.window = 3
	c.send(flagAck, 0, "")
	require.Equal(t, "hel", string(c.hear().payload))
	c.ack += 3
	c.window = 0
	c.send(flagAck, 0, "")
	require.NoError(t, far.CloseWrite())
	require.Equal(t, c.ack-1, c.hear().seq)
	c.window = 2
	c.send(flagAck, 0, "")
	s := c.hear()
	require.Equal(t, "lo", string(s.payload))
	require.Zero(t, s.flags&flagFin, "there is no room for it")
	c.ack += 2
	c.window = 0
	c.send(flagAck, 0, "")
	require.Equal(t, c.ack-1, c.hear().seq, "the end needs room as well")
	c.window = 1
	c.send(flagAck, 0, "")
	require.NotZero(t, c.hear().flags&flagFin)
}

// TestTCPHandshake has a guest that opens connections in odd ways.
func TestTCPHandshake(t *testing.T) {
	h := newHostile(t, Config{})
	to, conns := scripted(t)
	c := h.raw(4000, to)
	c.send(flagSyn, 0, "")
	first := c.hear()
	far := <-conns
	defer far.Close()
	require.EqualValues(t, 1460, first.mss)
	require.EqualValues(t, noScale, first.shift, "none was offered")
	c.send(flagSyn, 0, "") // once more
	require.Equal(t, first, c.hear())
	require.Equal(t, first, c.hear(), "and by time")
	c.seq++
	c.ack = first.seq + 100
	c.send(flagAck, 0, "") // of what was never sent
	s := c.hear()
	require.Equal(t, flagRst, s.flags)
	require.Equal(t, c.ack, s.seq)
	c.ack = first.seq + 1
	c.send(flagAck|flagFin, 0, "data and the end at once")
	requireRead(t, far, "data and the end at once")
	_, err := far.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.Equal(t, c.seq+25, c.hear().ack)
	c.send(flagSyn, 1000, "") // a guest that has forgotten is asked
	require.Equal(t, flagAck, c.hear().flags)
	c.send(flagRst, 1000, "")
	require.Equal(t, flagAck, c.hear().flags)
	c.send(flagRst, 25, "")
	_, err = far.Write([]byte("x"))
	for err == nil {
		_, err = far.Write([]byte("x"))
	}
	require.Zero(t, h.net.tcp.open.Load())

	c.send(flagAck, 0, "x") // of no connection
	s = c.hear()
	require.Equal(t, flagRst, s.flags)
	require.Equal(t, c.ack, s.seq)
	c.send(flagFin, 0, "x")
	s = c.hear()
	require.Equal(t, flagRst|flagAck, s.flags)
	require.Equal(t, c.seq+2, s.ack)
	c.send(flagRst, 0, "")
	c.quiet()
}

// TestTCPHostIsSlow has the host take nothing: the guest's window closes, and opens when
// it does.
func TestTCPHostIsSlow(t *testing.T) {
	c, far := rawOpen(t)
	total := 0
	for full := false; !full; {
		const n = 32 << 10
		c.say(string(make([]byte, n)))
		total += n
		s := c.hear()
		full = s.window == 0
		c.seq = s.ack
		require.Less(t, total, 64<<20)
	}
	c.send(flagAck, 0, "too much")
	require.Equal(t, c.seq, c.hear().ack)
	f := c.h.net.tcp.find(flowKey{netip.AddrPortFrom(Guest4, c.src), c.dst})
	f.mu.Lock()
	require.LessOrEqual(t, f.in.n, maxRing)
	require.Greater(t, f.in.n, maxRing-0x10000)
	f.mu.Unlock()
	go io.Copy(io.Discard, far)
	for c.hear().window == 0 {
	}
}

// TestTCPWithoutOffloads has a guest that wants plain segments.
func TestTCPWithoutOffloads(t *testing.T) {
	h := newHostile(t, Config{})
	h.link.offloads = 0
	to, conns := scripted(t)
	c := h.raw(4000, to)
	was := h.took
	h.took = func(p []byte) {
		tcp := header.TCP(p[header.IPv4MinimumSize:])
		ip := header.IPv4(p)
		if !ip.IsChecksumValid() || !tcp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksum.Checksum(tcp.Payload(), 0), uint16(len(tcp.Payload()))) {
			t.Errorf("a wrong checksum: %x", p)
		}
		was(p)
	}
	c.open()
	far := <-conns
	defer far.Close()
	want := bytes.Repeat([]byte("0123456789"), 500)
	_, err := far.Write(want)
	require.NoError(t, err)
	var got []byte
	for len(got) < len(want) {
		s := c.hear()
		require.LessOrEqual(t, len(s.payload), header.TCPDefaultMSS)
		got = append(got, s.payload...)
	}
	require.Equal(t, want, got)
}
