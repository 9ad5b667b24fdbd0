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
	options  []byte
	got      chan heardSegment
}

// heardSegment is one that the guest was sent.
type heardSegment struct {
	segment
	payload []byte
}

func (h *hostileGuest) raw(src uint16, dst netip.AddrPort) *rawTCP {
	c := &rawTCP{h: h, src: src, dst: dst, seq: 0xffff_fff0, window: 65535, got: make(chan heardSegment, 8192)}
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
	c.h.send(c.packet(flags, off, payload))
}

func (c *rawTCP) packet(flags header.TCPFlags, off int, payload string) []byte {
	size := header.TCPMinimumSize + len(c.options)
	return packet(c.dst.Addr(), header.TCPProtocolNumber, func(b []byte) {
		copy(b[header.TCPMinimumSize:], c.options)
		copy(b[size:], payload)
		header.TCP(b).Encode(&header.TCPFields{
			SrcPort: c.src, DstPort: c.dst.Port(), SeqNum: c.seq + uint32(off), AckNum: c.ack, DataOffset: uint8(size), Flags: flags, WindowSize: c.window,
		})
	}, size+len(payload), header.TCPChecksumOffset)
}

// frame is a packet with the header before it, which the bell is not rung for.
func (c *rawTCP) frame(flags header.TCPFlags, off int, payload string) (eth, packet []byte) {
	return append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0), c.packet(flags, off, payload)
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
// about to begin anew either way, and nothing is repeated before the test says so.
func rawOpen(t *testing.T) (*rawTCP, *net.TCPConn) {
	h := newHostile(t, Config{})
	h.net.tcp.repeat = time.Hour
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

// TestTCPRepeats loses what goes to the guest.
func TestTCPRepeats(t *testing.T) {
	c, far := rawOpen(t)
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(c.hear().payload))
	c.ack += 2
	c.send(flagAck, 0, "")
	for range dupThreshold { // without time, by what the guest says again and again
		c.quiet()
		c.send(flagAck, 0, "")
	}
	s := c.hear()
	require.Equal(t, c.ack, s.seq)
	require.Equal(t, "llo", string(s.payload))
	for range 2 * dupThreshold { // once
		c.send(flagAck, 0, "")
	}
	c.quiet()
	f := c.flow()
	onTimeOf(f, func() { f.repeatAt = 1 })
	s = c.hear()
	require.Equal(t, c.ack, s.seq)
	require.Equal(t, "llo", string(s.payload))
	c.ack += 3
	c.send(flagAck, 0, "")
	require.NoError(t, far.Close())
	require.NotZero(t, c.hear().flags&flagFin)
	onTimeOf(f, func() { f.repeatAt = 1 })
	s = c.hear()
	require.Equal(t, c.ack, s.seq)
	require.NotZero(t, s.flags&flagFin)
	c.ack++
	c.send(flagAck|flagFin, 0, "")
	require.Equal(t, c.seq+1, c.hear().ack)
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
}

// TestTCPClosedWindow has a guest that takes nothing for a while.
func TestTCPClosedWindow(t *testing.T) {
	c, far := rawOpen(t)
	c.opened()
	f := c.flow()
	ask := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.probing
		}, waitLong, tick)
		onTimeOf(f, func() { f.repeatAt = 1 })
		s := c.hear()
		require.Equal(t, c.ack-1, s.seq, "a question")
		require.Empty(t, s.payload)
		require.Zero(t, s.flags&flagFin)
	}
	c.window = 0
	c.send(flagAck, 0, "")
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	for range 2 {
		ask()
		c.send(flagAck, 0, "")
	}
	c.window = 3
	c.send(flagAck, 0, "")
	require.Equal(t, "hel", string(c.hear().payload))
	c.ack += 3
	c.window = 0
	c.send(flagAck, 0, "")
	require.NoError(t, far.CloseWrite())
	ask()
	c.window = 2
	c.send(flagAck, 0, "")
	s := c.hear()
	require.Equal(t, "lo", string(s.payload))
	require.Zero(t, s.flags&flagFin, "there is no room for it")
	c.ack += 2
	c.window = 0
	c.send(flagAck, 0, "")
	ask() // the end needs room as well
	c.window = 1
	c.send(flagAck, 0, "")
	require.NotZero(t, c.hear().flags&flagFin)
}

// TestTCPWindow sends no more than the guest takes, and no crumbs.
func TestTCPWindow(t *testing.T) {
	h := newHostile(t, Config{})
	h.net.tcp.repeat = time.Hour
	to, conns := scripted(t)
	c := h.raw(4000, to)
	c.options = []byte{header.TCPOptionMSS, 4, 1000 >> 8, 1000 & 255, header.TCPOptionNOP, header.TCPOptionWS, 3, 4}
	c.window = 80 // scaled only after the SYN
	c.send(flagSyn, 0, "")
	c.seq++
	s := c.hear()
	require.EqualValues(t, windowShift, s.shift)
	c.ack = s.seq + 1
	c.options = nil
	c.send(flagAck, 0, "")
	far := <-conns
	defer far.Close()
	_, err := far.Write(make([]byte, 3000))
	require.NoError(t, err)
	require.Len(t, c.hear().payload, 80<<4)
	c.quiet()
	c.ack += 80 << 4
	c.send(flagAck, 0, "")
	require.Len(t, c.hear().payload, 80<<4)
	c.window = 30 // 480 bytes from the middle of what is on its way
	c.ack += 80<<4 - 100
	c.send(flagAck, 0, "")
	c.quiet() // a crumb of 380 would fit
	c.ack += 100
	c.send(flagAck, 0, "")
	require.Len(t, c.hear().payload, 3000-2*80<<4, "all that is left is no crumb")

	// What is said of the window by a segment that comes late is of yesterday.
	c.ack += 3000 - 2*80<<4
	c.say("xx")
	c.say("x")
	requireRead(t, far, "xxx")
	for s = c.hear(); s.ack != c.seq; s = c.hear() {
	}
	c.window = 0
	c.send(flagAck, -2, "")
	_, err = far.Write([]byte("y"))
	require.NoError(t, err)
	for s = c.hear(); len(s.payload) == 0; s = c.hear() { // the late one is acknowledged
	}
	require.Equal(t, "y", string(s.payload))
}

// TestTCPHandshake has a guest that opens connections in odd ways.
func TestTCPHandshake(t *testing.T) {
	h := newHostile(t, Config{})
	h.net.tcp.repeat = time.Hour
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
	onTimeOf(c.flow(), func() { c.flow().repeatAt = 1 })
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
	text := make([]byte, 32<<10)
	total := 0
	for full := false; !full; {
		for i := range text {
			text[i] = streamByte(uint32(total + i))
		}
		begin := c.seq
		c.say(string(text))
		s := c.hear()
		full = s.window == 0
		c.seq = s.ack
		total += int(s.ack - begin)
		require.Less(t, total, 64<<20)
	}
	c.send(flagAck, 0, "too much")
	require.Equal(t, c.seq, c.hear().ack)
	f := c.h.net.tcp.find(flowKey{netip.AddrPortFrom(Guest4, c.src), c.dst})
	f.mu.Lock()
	require.LessOrEqual(t, f.in.n, maxRing)
	require.Greater(t, f.in.n, maxRing-0x10000)
	f.mu.Unlock()
	far.SetReadDeadline(time.Now().Add(waitLong))
	for at := 0; at < total; {
		n, err := far.Read(text[:min(len(text), total-at)])
		require.NoError(t, err)
		for i := range n {
			if text[i] != streamByte(uint32(at+i)) {
				t.Fatalf("byte %d is wrong", at+i)
			}
		}
		at += n
	}
	for c.hear().window == 0 {
	}
}

// TestTCPEndBeyondWindow has the guest's end come where it was offered nothing more.
func TestTCPEndBeyondWindow(t *testing.T) {
	c, far := rawOpen(t)
	c.opened()
	f := c.flow()
	f.mu.Lock()
	f.edge = f.rcv
	f.mu.Unlock()
	c.send(flagAck|flagFin, 0, "")
	s := c.hear()
	require.Equal(t, c.seq, s.ack)
	require.NotZero(t, s.window)
	c.send(flagAck|flagFin, 0, "") // again, now that there is room
	_, err := far.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.Equal(t, c.seq+1, c.hear().ack)
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
