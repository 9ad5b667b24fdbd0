package netstack

import "net/netip"

const (
	dnsPort = 53
	// maxQueries bounds queries under way; the guest asks again for those that
	// are dropped.
	maxQueries = 256
	// maxAnswer is for datagrams: what most clients and servers agree on at most.
	maxAnswer = 4096
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
