package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	dnsPort = 53
	// maxQueries bounds queries under way; the guest asks again for those that
	// are dropped.
	maxQueries = 256
	// maxAnswer is for datagrams: what most clients and servers agree on at most.
	maxAnswer = 4096
	// dnsBuffer is what the stack holds of answers on a connection at most.
	dnsBuffer = 64 << 10
)

// dnsBegin takes a slot for a query or a connection for queries.
func (n *Network) dnsBegin() bool {
	if n.queries.Add(1) > n.limit.queries {
		n.queries.Add(-1)
		return false
	}
	return true
}

func (n *Network) dnsEnd() { n.queries.Add(-1) }

// query answers a query that came as a datagram.
func (n *Network) query(src, dst netip.AddrPort, q []byte) {
	if !n.dnsBegin() {
		return
	}
	if !n.spawn(func() {
		defer n.dnsEnd()
		if answer := n.cfg.DNS.Handle(n.ctx, q, maxAnswer); answer != nil {
			n.sendDatagram(dst, src, answer)
		}
	}) {
		n.dnsEnd()
	}
}

// serveStream answers queries on a connection until the guest has no more, and returns
// when the stack holds no answer any more.
func (n *Network) serveStream(wq *waiter.Queue, ep tcpip.Endpoint) {
	defer settle(ep, wq, min(dnsOrphanTime, n.tcp.orphan), ep.Abort)
	n.cfg.DNS.ServeStream(n.ctx, gonet.NewTCPConn(wq, ep))
}
