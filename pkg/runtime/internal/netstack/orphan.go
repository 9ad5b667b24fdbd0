package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// orphanTime is how long a guest may take nothing of what the stack holds for it
	// on a connection that is over otherwise.
	orphanTime = 2 * time.Minute
	// dnsOrphanTime is how long it may take in all for the last answers of the name
	// server on a connection.
	dnsOrphanTime = 10 * time.Second
)

// settle closes an endpoint and returns when the stack holds nothing more of it: the
// guest took what was on its way, or has reset the connection, or somebody cut it.
// Late is called when so much time is over, and after each further such time.
func settle(ep tcpip.Endpoint, wq *waiter.Queue, patience time.Duration, late func()) {
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
			late()
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

// cutIdle has the stack cut a connection on which the guest takes nothing for so long,
// even one that says again and again that it has no room.
func cutIdle(ep tcpip.Endpoint, after time.Duration) {
	t := tcpip.TCPUserTimeoutOption(after)
	_ = ep.SetSockOpt(&t) // cannot fail
}
