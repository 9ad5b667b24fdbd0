package netstack

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// TestHostile36Blocked begins connections and resets them, with no room in the ring for
// any answer: what waits for room is bounded.
func TestHostile36Blocked(t *testing.T) {
	h := newHostile(t, Config{})
	h.deaf.Store(false)
	h.link.refill(0)
	to := server(t, func(net.Conn) {})
	before := measure(t)
	q := &h.net.link.queues[0]
	most := 0
	for i := range many(3, 20) * (maxTCP + maxOpening) {
		port := uint16(1024 + i%60_000)
		h.send(tcpPacket(port, to, header.TCPFlagSyn, uint32(i), 0, 65535))
		f := h.net.tcp.find(flowKey{netip.AddrPortFrom(Guest4, port), to})
		if f == nil {
			continue
		}
		f.serve(writable) // as if it were connected
		h.send(tcpPacket(port, to, header.TCPFlagRst, uint32(i)+1, 0, 0))
		q.mu.Lock()
		most = max(most, len(q.blocked))
		q.mu.Unlock()
	}
	require.Greater(t, most, maxTCP, "nothing waits")
	require.LessOrEqual(t, most, 2*(maxTCP+maxOpening))
	h.link.refill(-1)
	require.Eventually(t, func() bool {
		h.link.refill(-1)
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.blocked) == 0
	}, waitLong, tick)
	requireSettled(t, before, usage{heap: 32 << 20, goroutines: 20, fds: 20}, func() {})
}

// TestHostile36HalfOpen begins connections and never goes on: each is over in time, and
// the host hears of it.
func TestHostile36HalfOpen(t *testing.T) {
	h := newHostile(t, Config{})
	to, conns := scripted(t)
	c := h.raw(4000, to)
	c.send(flagSyn, 0, "")
	require.Equal(t, flagSyn|flagAck, c.hear().flags)
	far := <-conns
	f := h.net.tcp.find(flowKey{netip.AddrPortFrom(Guest4, 4000), to})
	f.mu.Lock()
	require.Greater(t, f.deadline, f.table.now())
	f.deadline = 1
	f.wakeAt(1)
	f.mu.Unlock()
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	require.Zero(t, h.net.tcp.opening.Load())
	require.Equal(t, flagRst|flagAck, c.hear().flags)
}

// TestTCPToItself has a socket be connected to itself, as it happens on ports that the
// host's kernel gives out.
func TestTCPToItself(t *testing.T) {
	h := newHostile(t, Config{})
	fd, err := newSocket(unix.AF_INET, unix.SOCK_STREAM)
	require.NoError(t, err)
	addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	require.NoError(t, unix.Bind(fd, addr))
	local, err := unix.Getsockname(fd)
	require.NoError(t, err)
	if err := unix.Connect(fd, local); err != nil {
		require.ErrorIs(t, err, unix.EINPROGRESS)
	}
	port := uint16(local.(*unix.SockaddrInet4).Port)
	key := flowKey{netip.AddrPortFrom(Guest4, 1), netip.AddrPortFrom(Host4, port)}
	f := newTCPFlow(h.net.tcp, key)
	require.True(t, h.net.tcp.add(f))
	f.fd = fd
	_, err = f.connected()
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	f.key.dst = netip.AddrPortFrom(Host4, port+1)
	done, err := f.connected()
	require.NoError(t, err)
	require.True(t, done)
	f.key = key
	f.fail(errClosed)
}

// TestForwardedTCPSilentGuest has a guest that does not answer: whoever connected sees a
// reset in the end.
func TestForwardedTCPSilentGuest(t *testing.T) {
	flows := make(chan Flow, 1)
	h := newHostile(t, Config{Flows: func(f Flow) { flows <- f }})
	c := h.raw(80, netip.AddrPort{})
	h.net.tcp.first = func(flowKey) uint32 { return 7 }
	guest := netip.AddrPortFrom(Guest4, 80)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer far.Close()
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(t, err)
		h.net.tcp.call(80, own, netip.MustParseAddrPort("192.0.2.1:9"))
	}))
	for range 2 { // the second by time
		s := c.hear()
		require.Equal(t, flagSyn, s.flags)
		require.EqualValues(t, 7, s.seq)
		require.EqualValues(t, 1460, s.mss)
		require.EqualValues(t, windowShift, s.shift)
	}
	f := h.net.tcp.find(flowKey{guest, netip.AddrPortFrom(Gateway4, firstCaller)})
	f.mu.Lock()
	require.LessOrEqual(t, f.deadline, f.table.now()+callTime)
	f.deadline = 1
	f.wakeAt(1)
	f.mu.Unlock()
	over := <-flows
	require.Equal(t, errSilent.Error(), over.Err)
	require.True(t, over.Inbound)
	require.Equal(t, "192.0.2.1:9", over.Src.String())
	require.Equal(t, guest, over.Dst)
}

// TestForwardedTCPRaw has a guest that answers calls in odd ways.
func TestForwardedTCPRaw(t *testing.T) {
	h := newHostile(t, Config{})
	c := h.raw(80, netip.AddrPortFrom(Gateway4, firstCaller))
	h.net.tcp.first = func(flowKey) uint32 { return 0xffff_ffff }
	p, err := h.net.AddPort(Port{Protocol: egress.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80})
	require.NoError(t, err)
	far, err := net.Dial("tcp", p.Host.String())
	require.NoError(t, err)
	defer far.Close()
	_, err = far.Write([]byte("hello"))
	require.NoError(t, err)
	require.Equal(t, flagSyn, c.hear().flags)
	c.ack = 1234
	c.send(flagSyn|flagAck, 0, "") // to somebody else
	s := c.hear()
	require.Equal(t, flagRst, s.flags)
	require.EqualValues(t, 1234, s.seq)
	require.Equal(t, flagSyn, c.hear().flags, "at once")
	c.send(flagSyn, 0, "") // no answer at all
	c.ack = 0              // the one after ours
	c.send(flagSyn|flagAck, 0, "")
	c.seq++
	s = c.hear()
	require.Equal(t, flagAck, s.flags)
	require.Equal(t, c.seq, s.ack)
	s = c.hear()
	require.Equal(t, "hello", string(s.payload))
	c.ack += 5
	c.say("there")
	requireRead(t, far, "there")
	require.Equal(t, c.seq, c.hear().ack)
	c.send(flagRst, 0, "")
	far.SetReadDeadline(time.Now().Add(waitLong))
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}
