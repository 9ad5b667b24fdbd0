package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// udpEcho answers each datagram on the host's loopback with itself.
func udpEcho(t testing.TB) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return netip.AddrPortFrom(Host4, uint16(conn.LocalAddr().(*net.UDPAddr).Port))
}

func (g *guest) udp(local uint16, remote netip.AddrPort) *gonet.UDPConn {
	g.t.Helper()
	c, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: 1, Addr: toTCPIP(guestOf(remote.Addr())), Port: local},
		&tcpip.FullAddress{Addr: toTCPIP(remote.Addr()), Port: remote.Port()}, networkOf(remote.Addr()))
	require.NoError(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends a datagram and returns the answer.
func exchange(t testing.TB, c net.Conn, p []byte) []byte {
	t.Helper()
	_, err := c.Write(p)
	require.NoError(t, err)
	buf := make([]byte, maxDatagram)
	c.SetReadDeadline(time.Now().Add(waitLong))
	n, err := c.Read(buf)
	require.NoError(t, err)
	return buf[:n]
}

// insist is exchange for datagrams that may be lost, as after a flood.
func insist(t testing.TB, c net.Conn, p []byte) []byte {
	t.Helper()
	buf := make([]byte, maxDatagram)
	for end := time.Now().Add(waitLong); time.Now().Before(end); {
		_, err := c.Write(p)
		require.NoError(t, err)
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(buf); err == nil {
			return buf[:n]
		}
	}
	t.Fatal("no answer")
	return nil
}

func TestUDPEcho(t *testing.T) {
	g := newGuest(t, Config{})
	c := g.udp(0, udpEcho(t))
	for _, size := range []int{1, 1200, 1472, 1473, 9000, 60000} {
		p := make([]byte, size)
		p[0], p[size-1] = byte(size), 7
		require.Equal(t, p, exchange(t, c, p), "%d bytes", size)
	}
	require.EqualValues(t, 1, g.net.Stats().UDPTotal, "one flow")
}

// TestUDPFlowsAreBounded opens more flows than there may be: the silent ones make
// room, and new ones work.
func TestUDPFlowsAreBounded(t *testing.T) {
	g := newGuest(t, Config{})
	addr := udpEcho(t)
	for port := range maxUDP + 500 {
		c, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: 1, Addr: toTCPIP(Guest4), Port: uint16(1024 + port)},
			&tcpip.FullAddress{Addr: toTCPIP(addr.Addr()), Port: addr.Port()}, ipv4.ProtocolNumber)
		require.NoError(t, err)
		_, err = c.Write([]byte{1})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Equal(t, []byte("on"), insist(t, g.udp(0, addr), []byte("on")))
	require.LessOrEqual(t, g.net.Stats().UDPActive, uint64(maxUDP+64))
}

func TestUDPDenied(t *testing.T) {
	flows := make(chan Flow, 4)
	g := newGuest(t, Config{Policy: policy(t, egress.Config{}), Flows: func(f Flow) { flows <- f }})
	c := g.udp(0, udpEcho(t))
	for range 3 { // one verdict for all of them
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
	}
	f := <-flows
	require.False(t, f.Verdict.Allow)
	require.Equal(t, egress.UDP, f.Protocol)
	require.EqualValues(t, 1, g.net.Stats().Denied)
}

// TestUDPUnreachable has programs of the guest learn from their sockets that nobody is
// there, and that they may not.
func TestUDPUnreachable(t *testing.T) {
	g := newGuest(t, Config{})
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.ListenPacket("udp", host)
		require.NoError(t, err)
		at := l.LocalAddr().(*net.UDPAddr).AddrPort()
		require.NoError(t, l.Close())
		to := netip.AddrPortFrom(Host4, at.Port())
		if at.Addr().Is6() {
			to = netip.AddrPortFrom(Host6, at.Port())
		}
		requireUnreachable(t, g.udp(0, to), "refused")

		// A refusal is of the datagram before, and does not cost the next one.
		c := g.udp(0, to)
		requireUnreachable(t, c, "refused")
		back, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		require.NoError(t, err)
		_, err = c.Write([]byte("again"))
		require.NoError(t, err)
		buf := make([]byte, 100)
		back.SetReadDeadline(time.Now().Add(waitLong))
		for {
			n, err := back.Read(buf)
			require.NoError(t, err)
			if string(buf[:n]) == "again" {
				break
			}
		}
		require.NoError(t, back.Close())
	}

	// Of what is denied the guest's stack in these tests takes no notice; Linux does.
	g = newGuest(t, Config{})
	frames := make(chan []byte, 8)
	g.net.link.nic = capturing{g.link, frames}
	for to, code := range map[string][2]byte{"10.0.0.1:443": {3, 13}, "[fd00::1]:443": {1, 1}} {
		key := flowKey{netip.AddrPortFrom(Guest4, 4000), netip.MustParseAddrPort(to)}
		at, inner := 14+20, 20
		if key.dst.Addr().Is6() {
			key.src = netip.AddrPortFrom(Guest6, 4000)
			at, inner = 14+40, 40
		}
		require.NotNil(t, g.net.udp.flow(key))
		f := <-frames
		require.Equal(t, code[:], f[at:at+2])
		require.Equal(t, []byte{4000 >> 8, 4000 & 255, 443 >> 8, 443 & 255}, f[at+8+inner:at+12+inner], "the ports that it is about")
	}
}

func requireUnreachable(t *testing.T, c net.Conn, why string) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { // package gonet wakes no reader for it
		c.SetReadDeadline(time.Now().Add(tick))
		_, err = c.Read(make([]byte, 10))
		return err != nil && strings.Contains(err.Error(), why)
	}, waitLong, tick)
}

// warmFlow is a flow to a socket of the host, which nobody reads, and a frame for it.
func warmFlow(tb testing.TB, g *guest) (frame [][]byte, f *udpFlow) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { l.Close() })
	dst := netip.AddrPortFrom(Host4, uint16(l.LocalAddr().(*net.UDPAddr).Port))
	p := datagram(4000, dst, 1200)
	// As a guest's kernel has them: headers in one place, contents in another.
	frame = [][]byte{append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0), p[:28], p[28:]}
	g.net.link.Receive(0, &vnet.Header{}, frame)
	f = g.net.udp.flow(flowKey{netip.AddrPortFrom(Guest4, 4000), dst})
	require.NotNil(tb, f)
	l.SetReadDeadline(time.Now().Add(waitLong))
	n, _, err := l.ReadFrom(make([]byte, 2000))
	require.NoError(tb, err)
	require.Equal(tb, 1200, n)
	return frame, f
}

func BenchmarkDatagramFromGuest(b *testing.B) {
	g := newGuest(b, Config{})
	frame, _ := warmFlow(b, g)
	var h vnet.Header
	b.ReportAllocs()
	for b.Loop() {
		g.net.link.Receive(0, &h, frame)
	}
}

func BenchmarkDatagramToGuest(b *testing.B) {
	g := newGuest(b, Config{})
	g.net.link.nic = discarding{}
	p := make([]byte, 1200)
	b.ReportAllocs()
	for b.Loop() {
		g.net.sendDatagram(udpEchoSource, udpGuest, p)
	}
}

// TestDatagramsAllocateNothing holds what the guest sends, and what the network itself
// answers, to no allocation.
func TestDatagramsAllocateNothing(t *testing.T) {
	g := newGuest(t, Config{})
	frame, f := warmFlow(t, g)
	var h vnet.Header
	require.Zero(t, testing.AllocsPerRun(100, func() { g.net.link.Receive(0, &h, frame) }))
	require.GreaterOrEqual(t, f.sent.Load(), uint64(100*1200))
	g = newGuest(t, Config{})
	g.net.link.nic = discarding{}
	p := make([]byte, 1200)
	require.Zero(t, testing.AllocsPerRun(100, func() { g.net.sendDatagram(udpEchoSource, udpGuest, p) }))
}

// TestUDPIdle ends flows that were silent for long, and tells of them.
func TestUDPIdle(t *testing.T) {
	flows := make(chan Flow, 4)
	g := newGuest(t, Config{Flows: func(f Flow) { flows <- f }})
	addr := udpEcho(t)
	silent, busy := g.udp(4001, addr), g.udp(4002, addr)
	exchange(t, silent, []byte("abc"))
	exchange(t, busy, []byte("x"))
	g.net.udp.flow(flowKey{netip.AddrPortFrom(Guest4, 4001), addr}).used.Add(-int64(udpIdle))
	g.net.udp.sweep()
	f := <-flows
	require.EqualValues(t, 4001, f.Src.Port())
	require.EqualValues(t, 3, f.Sent)
	require.EqualValues(t, 3, f.Received)
	require.Empty(t, f.Err)
	require.EqualValues(t, 1, g.net.Stats().UDPActive)
	require.Equal(t, "x", string(exchange(t, busy, []byte("x"))))
	require.Equal(t, "again", string(exchange(t, silent, []byte("again"))), "it may begin anew")
}

func TestForwardedTCP(t *testing.T) {
	g := newGuest(t, Config{})
	l := g.listen(80)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "to %v", c.LocalAddr())
			c.Close()
		}
	}()
	p, err := g.net.AddPort(Port{Protocol: egress.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80})
	require.NoError(t, err)
	require.NotZero(t, p.Host.Port())
	require.Equal(t, []Port{p}, g.net.Ports())
	c, err := net.Dial("tcp", p.Host.String())
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "to 192.168.127.2:80", string(buf[:n]))
	c.Close()

	_, err = g.net.AddPort(Port{Protocol: egress.TCP, Host: p.Host, Guest: 81})
	require.ErrorContains(t, err, "in use")
	require.NoError(t, g.net.RemovePort(p))
	require.ErrorIs(t, g.net.RemovePort(p), ErrNoPort)
	_, err = net.Dial("tcp", p.Host.String())
	require.Error(t, err)
}

func TestForwardedTCPToNobody(t *testing.T) {
	g := newGuest(t, Config{})
	p, err := g.net.AddPort(Port{Protocol: egress.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 81})
	require.NoError(t, err)
	c, err := net.Dial("tcp", p.Host.String())
	if err == nil { // the reset may come before the kernel has told of the connection
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorContains(t, err, "reset")
}

func TestForwardedUDP(t *testing.T) {
	g := newGuest(t, Config{})
	s, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: 1, Addr: toTCPIP(Guest4), Port: 53}, nil, ipv4.ProtocolNumber)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2000)
		for {
			n, from, err := s.ReadFrom(buf)
			if err != nil {
				return
			}
			s.WriteTo(append([]byte("re: "), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() { s.Close(); <-done })
	p, err := g.net.AddPort(Port{Protocol: egress.UDP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 53})
	require.NoError(t, err)
	for i := range 3 { // several clients at a time
		c, err := net.Dial("udp", p.Host.String())
		require.NoError(t, err)
		defer c.Close()
		q := fmt.Sprintf("question %d", i)
		require.Equal(t, "re: "+q, string(exchange(t, c, []byte(q))))
	}
}

func TestDHCP(t *testing.T) {
	g := newGuest(t, Config{Hostname: "web", DNS: noDNS{}})
	frames := make(chan []byte, 8)
	g.net.link.nic = capturing{g.link, frames}
	ask := func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		g.net.dhcp(m.ToBytes())
		f := <-frames
		r, err := dhcpv4.FromBytes(f[14+20+8:])
		require.NoError(t, err)
		return r
	}
	discover, err := dhcpv4.NewDiscovery(GuestMAC)
	require.NoError(t, err)
	offer := ask(discover)
	require.Equal(t, dhcpv4.MessageTypeOffer, offer.MessageType())
	require.Equal(t, Guest4.String(), offer.YourIPAddr.String())
	request, err := dhcpv4.NewRequestFromOffer(offer)
	require.NoError(t, err)
	ack := ask(request)
	require.Equal(t, dhcpv4.MessageTypeAck, ack.MessageType())
	require.Equal(t, Gateway4.String(), ack.Router()[0].String())
	require.Equal(t, Gateway4.String(), ack.DNS()[0].String())
	require.Equal(t, "web", ack.HostName())
	request.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 168, 127, 9)))
	require.Equal(t, dhcpv4.MessageTypeNak, ask(request).MessageType())
}

type noDNS struct{}

func (noDNS) Handle(context.Context, []byte, int) []byte { return nil }
func (noDNS) ServeStream(context.Context, net.Conn)      {}
