package netstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// dnsBuffer is what the stack holds of answers on a connection at most.
	dnsBuffer = 64 << 10
	// dnsOrphanTime is how long the guest may take in all for the last answers of the name
	// server on a connection.
	dnsOrphanTime = 10 * time.Second
	// timeWait is for a guest that is one hop away, and orderly.
	timeWait = 5 * time.Second
)

// tuneStack sets up the stack's own TCP, which ends connections to the gateway: its name
// server. Those to others are tcpTable's.
func (n *Network) tuneStack() error {
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(30*time.Second)
	for _, o := range []tcpip.SettableTransportProtocolOption{&wait, &linger} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: TCP option %T: %v", o, err)
		}
	}
	return nil
}

func newGateway(n *Network) *tcp.Forwarder {
	return tcp.NewForwarder(n.stack, dnsBuffer, int(n.limit.queries), func(r *tcp.ForwarderRequest) {
		if !n.spawn(func() { n.acceptOwn(r) }) {
			r.Complete(true)
		}
	})
}

// acceptOwn serves what the gateway itself offers: its name server.
func (n *Network) acceptOwn(r *tcp.ForwarderRequest) {
	if r.ID().LocalPort != dnsPort || n.cfg.DNS == nil || !n.dnsBegin() {
		r.Complete(true)
		return
	}
	defer n.dnsEnd()
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	ep.SocketOptions().SetSendBufferSize(dnsBuffer, true)
	n.serveStream(&wq, ep)
}

// serveStream answers queries on a connection until the guest has no more, and returns
// when the stack holds no answer any more.
func (n *Network) serveStream(wq *waiter.Queue, ep tcpip.Endpoint) {
	defer settleEndpoint(ep, wq, min(dnsOrphanTime, n.tcp.orphan))
	n.cfg.DNS.ServeStream(n.ctx, gonet.NewTCPConn(wq, ep))
}

// settleEndpoint closes an endpoint and returns when the stack holds nothing more of it: the
// guest took what was on its way, or has reset the connection, or its time is over.
func settleEndpoint(ep tcpip.Endpoint, wq *waiter.Queue, patience time.Duration) {
	entry, changed := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep.Close()
	if settled(ep) {
		return
	}
	over := time.NewTicker(patience)
	defer over.Stop()
	for !settled(ep) {
		select {
		case <-changed:
		case <-over.C:
			ep.Abort()
		}
	}
}

// settled reports whether the stack holds nothing of an endpoint that was closed.
func settled(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
		return true
	}
	return false
}
