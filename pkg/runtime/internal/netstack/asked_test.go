package netstack

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
)

// TestAsked has connections wait for an answer, and go on or not as it says.
func TestAsked(t *testing.T) {
	asked, answers := make(chan egress.Request, 8), make(chan egress.Action)
	p, err := egress.New(egress.Config{Default: egress.Ask}, egress.Options{
		HostName: HostName, HostAddrs: []netip.Addr{Host4, Host6}, Subnets: []netip.Prefix{Subnet4, Subnet6},
		Ask: func(ctx context.Context, r egress.Request) (egress.Action, error) {
			asked <- r
			select {
			case a := <-answers:
				return a, nil
			case <-ctx.Done():
				return egress.Allow, ctx.Err()
			}
		},
	})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	flows := make(chan Flow, 8)
	g := newGuest(t, Config{Policy: p, Flows: func(f Flow) { flows <- f }})
	addr := echoServer(t)
	g.net.tcp.where = func(dst netip.AddrPort) netip.AddrPort { return hostSide(netip.AddrPortFrom(Host4, addr.Port())) }
	type result struct {
		c   net.Conn
		err error
	}
	dial := func(to string) <-chan result {
		done := make(chan result, 1)
		go func() {
			c, err := g.dial(netip.MustParseAddrPort(to))
			done <- result{c, err}
		}()
		return done
	}
	yes := dial("93.184.216.34:443")
	require.Equal(t, egress.Request{Flow: egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort("93.184.216.34:443")}}, <-asked)
	require.Empty(t, yes, "it is open before the answer")
	answers <- egress.Allow
	r := <-yes
	require.NoError(t, r.err)
	require.Equal(t, "asked", string(exchange(t, r.c, []byte("asked"))))
	require.NoError(t, r.c.Close())
	f := <-flows
	require.Equal(t, egress.ByAnswer, f.Verdict.Reason)
	require.EqualValues(t, 5, f.Sent)

	no := dial("93.184.216.34:80")
	<-asked
	answers <- egress.Deny
	require.ErrorContains(t, (<-no).err, "refused")
	require.Equal(t, egress.ByAnswer, (<-flows).Verdict.Reason)
	require.ErrorContains(t, (<-dial("10.0.0.1:80")).err, "refused")
	require.Equal(t, egress.SpecialPrivate, (<-flows).Verdict.Reason, "not for the asking")

	// The box ends while somebody thinks.
	dial("93.184.216.34:8080")
	<-asked
	g.reset()
	require.NoError(t, g.net.Close())
}

// stuckDNS answers when it is released.
type stuckDNS struct {
	under   atomic.Int64
	most    atomic.Int64
	release chan struct{}
}

func (d *stuckDNS) Handle(ctx context.Context, q []byte, _ int) []byte {
	n := d.under.Add(1)
	defer d.under.Add(-1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	select {
	case <-d.release:
	case <-ctx.Done():
	}
	return q
}

func (d *stuckDNS) ServeStream(ctx context.Context, c net.Conn) {
	d.Handle(ctx, nil, 0)
	c.Close()
}

// TestHostile36Queries asks more of the name server than it has time for.
func TestHostile36Queries(t *testing.T) {
	d := &stuckDNS{release: make(chan struct{})}
	h := newHostile(t, Config{DNS: d})
	before := measure(t)
	server := netip.AddrPortFrom(Gateway4, dnsPort)
	for i := range uint16(2000) {
		h.send(datagram(1024+i, server, 30))
	}
	require.Eventually(t, func() bool { return d.under.Load() == maxQueries }, waitLong, tick)
	requireWithin(t, before, usage{heap: 16 << 20, goroutines: maxQueries + 50, fds: 2})
	close(d.release)
	require.Eventually(t, func() bool { return d.under.Load() == 0 }, waitLong, tick)
	require.EqualValues(t, maxQueries, d.most.Load())
	h.deaf.Store(false)
	require.Len(t, exchange(t, h.udp(0, server), make([]byte, 30)), 30)
	c, err := h.dial(server)
	require.NoError(t, err)
	c.SetReadDeadline(time.Now().Add(waitLong))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, c.Close())
}
