package netstack

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// endpoint connects from the guest and returns the socket itself, which can do more
// than a net.Conn.
func (g *guest) endpoint(addr netip.AddrPort) tcpip.Endpoint {
	g.t.Helper()
	wq := new(waiter.Queue)
	ep, terr := g.stack.NewEndpoint(tcp.ProtocolNumber, networkOf(addr.Addr()), wq)
	require.Nil(g.t, terr)
	g.t.Cleanup(ep.Close)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(tcpip.FullAddress{Addr: toTCPIP(addr.Addr()), Port: addr.Port()})
	require.IsType(g.t, &tcpip.ErrConnectStarted{}, terr)
	<-ready
	require.Nil(g.t, ep.LastError())
	return ep
}

// TestTCPGuestResets has the guest reset connections of which the host says and takes
// nothing: each is over at once.
func TestTCPGuestResets(t *testing.T) {
	flows := make(chan Flow, 1)
	g := newGuest(t, Config{Flows: func(f Flow) { flows <- f }})
	for name, before := range map[string]func(ep tcpip.Endpoint, ended <-chan struct{}){
		"open": func(tcpip.Endpoint, <-chan struct{}) {},
		"after its end": func(ep tcpip.Endpoint, ended <-chan struct{}) {
			require.Nil(t, ep.Shutdown(tcpip.ShutdownWrite))
			<-ended
		},
		"host reads none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{})
			to := server(t, func(c net.Conn) {
				if before != nil {
					io.Copy(io.Discard, c)
					close(ended)
				}
				<-t.Context().Done()
			})
			ep := g.endpoint(to)
			// A reset before that is the end of an attempt, not of a connection.
			require.Eventually(t, func() bool { return g.net.Stats().TCPActive == 1 }, waitLong, tick)
			if before != nil {
				before(ep, ended)
			} else { // until nobody on the way takes more
				for last := time.Now(); time.Since(last) < 100*time.Millisecond; {
					var p zeroes = 64 << 10
					if n, _ := ep.Write(&p, tcpip.WriteOptions{}); n > 0 {
						last = time.Now()
					}
				}
			}
			ep.Abort()
			select {
			case f := <-flows:
				require.Contains(t, f.Err, "reset")
			case <-time.After(waitLong):
				t.Fatal("the connection goes on")
			}
			require.Eventually(t, func() bool { return g.net.Stats().TCPActive == 0 }, waitLong, tick)
		})
	}
}

// TestTCPGuestIsGone has the guest forget a connection without a word, as a network
// in it can: the host's end does not stay open for that.
func TestTCPGuestIsGone(t *testing.T) {
	flows := make(chan Flow, 1)
	g := newGuest(t, Config{Flows: func(f Flow) { flows <- f }})
	g.net.tcp.idle = 20 * time.Millisecond
	ended := make(chan struct{})
	g.endpoint(server(t, func(c net.Conn) {
		io.Copy(io.Discard, c)
		close(ended)
	}))
	require.Eventually(t, func() bool { return g.net.Stats().TCPActive == 1 }, waitLong, tick)
	g.reset() // frames go nowhere from here on
	select {
	case <-ended:
	case <-time.After(waitLong):
		t.Fatal("the host's end stays")
	}
	require.NotEmpty(t, (<-flows).Err)
	require.Eventually(t, func() bool { return g.net.Stats().TCPActive == 0 }, waitLong, tick)
}

// zeroes is a payload of so many.
type zeroes int

func (z *zeroes) Len() int { return int(*z) }
func (z *zeroes) Read(p []byte) (int, error) {
	n := min(len(p), int(*z))
	if *z -= zeroes(n); n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	return n, nil
}

// TestTCPSlowHostGetsAll has the guest end both ways in order while the host has yet to
// take most of what was sent: that is no reset, and nothing is lost.
func TestTCPSlowHostGetsAll(t *testing.T) {
	const size = 6 << 20
	g := newGuest(t, Config{})
	release, got := make(chan struct{}), make(chan int64, 1)
	c, err := g.dial(server(t, func(c net.Conn) {
		c.(*net.TCPConn).CloseWrite()
		<-release
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}))
	require.NoError(t, err)
	defer c.Close()
	_, err = io.ReadAll(c) // the host's end
	require.NoError(t, err)
	go func() {
		c.Write(make([]byte, size))
		c.Close()
	}()
	time.Sleep(50 * time.Millisecond) // the more is on its way the better
	close(release)
	require.EqualValues(t, size, <-got)
}

// TestIPv6 goes over the host's IPv6, of which every host has the loopback.
func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	require.NoError(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp", "[::1]:0")
	require.NoError(t, err)
	defer u.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(buf[:n], from)
		}
	}()
	g := newGuest(t, Config{})
	addr := netip.AddrPortFrom(Host6, uint16(l.Addr().(*net.TCPAddr).Port))
	c, err := g.dial(addr)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "over TCP", string(exchange(t, c, []byte("over TCP"))))
	d := g.udp(0, netip.AddrPortFrom(Host6, uint16(u.LocalAddr().(*net.UDPAddr).Port)))
	for _, size := range []int{1, 1452, 1453, 9000} { // in one piece, and in fragments both ways
		require.Len(t, exchange(t, d, make([]byte, size)), size)
	}
	l.Close()
	_, err = g.dial(addr)
	require.Error(t, err)
}
