package netstack

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// takesLittle makes the guest's window so small that what it is sent stays here.
func (g *guest) takesLittle() {
	size, moderate := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: 4096, Max: 4096}, tcpip.TCPModerateReceiveBufferOption(false)
	require.Nil(g.t, g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &size))
	require.Nil(g.t, g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate))
}

// takeAll reads until the other side's end and says how much there was.
func (g *guest) takeAll(ep tcpip.Endpoint) (n int) {
	var all bytes.Buffer
	require.Eventually(g.t, func() bool {
		_, err := ep.Read(&all, tcpip.ReadOptions{})
		_, end := err.(*tcpip.ErrClosedForReceive)
		if _, none := err.(*tcpip.ErrWouldBlock); err != nil && !none && !end {
			g.t.Error(err)
		}
		return end
	}, waitLong, tick)
	return all.Len()
}

// requireNothing waits until nothing of the guest's connections is left.
func (g *guest) requireNothing() {
	require.Eventually(g.t, func() bool {
		return g.net.tcp.open.Load() == 0 && g.net.tcp.memory.used.Load() == 0 && g.net.queries.Load() == 0
	}, waitLong, tick)
	for _, ep := range g.net.stack.RegisteredEndpoints() {
		require.Equal(g.t, tcp.StateTimeWait, tcp.EndpointState(ep.(tcpip.Endpoint).State()))
	}
}

const orphanSize = 512 << 10

// orphan makes a connection that is over but for what the guest has not read.
func orphan(t *testing.T, patience time.Duration) (*guest, tcpip.Endpoint, <-chan Flow) {
	flows := make(chan Flow, 1)
	g := newGuest(t, Config{Flows: func(f Flow) { flows <- f }})
	g.net.tcp.orphan = patience
	g.takesLittle()
	ep := g.endpoint(server(t, func(c net.Conn) {
		c.Write(make([]byte, orphanSize))
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}))
	require.Nil(t, ep.Shutdown(tcpip.ShutdownWrite))
	return g, ep, flows
}

// TestOrphanIsWaitedFor has a guest that is slow to read what is left: nothing is lost.
func TestOrphanIsWaitedFor(t *testing.T) {
	g, ep, flows := orphan(t, orphanTime)
	require.Eventually(t, func() bool { return g.net.tcp.memory.used.Load() >= orphanSize }, waitLong, tick)
	require.EqualValues(t, 1, g.net.tcp.open.Load())
	require.Equal(t, orphanSize, g.takeAll(ep))
	g.requireNothing()
	f := <-flows
	require.Empty(t, f.Err)
	require.EqualValues(t, orphanSize, f.Received)
}

// TestOrphanIsCut has a guest that answers but reads nothing.
func TestOrphanIsCut(t *testing.T) {
	g, _, flows := orphan(t, 50*time.Millisecond)
	g.requireNothing()
	require.Equal(t, errOrphan.Error(), (<-flows).Err)
}

// TestOrphanOfNobody has a guest that does not even answer.
func TestOrphanOfNobody(t *testing.T) {
	g, _, flows := orphan(t, 1000*time.Hour)
	require.Eventually(t, func() bool { return g.net.tcp.memory.used.Load() >= orphanSize }, waitLong, tick)
	g.reset()
	g.net.tcp.mu.Lock()
	all := slices.Collect(maps.Values(g.net.tcp.flows))
	g.net.tcp.mu.Unlock()
	require.Len(t, all, 1)
	onTimeOf(all[0], func() { all[0].progress -= 1001 * time.Hour })
	g.requireNothing()
	require.Equal(t, errOrphan.Error(), (<-flows).Err)
}

// TestCloseEndsOrphans closes a network that waits for its guest to read.
func TestCloseEndsOrphans(t *testing.T) {
	g, _, flows := orphan(t, 1000*time.Hour)
	require.Eventually(t, func() bool { return g.net.tcp.memory.used.Load() >= orphanSize }, waitLong, tick)
	g.reset()
	require.NoError(t, g.net.Close())
	require.Zero(t, g.net.tcp.open.Load())
	require.Zero(t, g.net.tcp.memory.used.Load())
	require.Equal(t, errClosed.Error(), (<-flows).Err)
}

// talkative is a name server that says as much as a connection takes.
type talkative struct {
	noDNS
	said chan int
}

func (d talkative) ServeStream(_ context.Context, conn net.Conn) {
	conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, _ := conn.Write(make([]byte, 1<<20))
	conn.Close()
	d.said <- n
}

// TestDNSOrphans has the name server end connections of which the guest has read
// nothing: they keep their place until it has, or is too slow.
func TestDNSOrphans(t *testing.T) {
	for name, patience := range map[string]time.Duration{"taken": orphanTime, "cut": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			dns := talkative{said: make(chan int, 1)}
			g := newGuest(t, Config{DNS: dns, Policy: policy(t, egress.Config{})})
			g.net.tcp.orphan = patience
			g.takesLittle()
			ep := g.endpoint(netip.AddrPortFrom(Gateway4, dnsPort))
			require.Nil(t, ep.Shutdown(tcpip.ShutdownWrite))
			said := <-dns.said
			require.Less(t, said, 2*dnsBuffer)
			require.Greater(t, said, dnsBuffer/2)
			if patience == orphanTime {
				require.EqualValues(t, 1, g.net.queries.Load())
				require.Equal(t, said, g.takeAll(ep))
			}
			g.requireNothing()
		})
	}
}
