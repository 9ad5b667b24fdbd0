package netstack

// socketOwner is who sockets tells of events.
type socketOwner interface {
	// serve does what can be done for a socket of which these events are new. It returns
	// how much that was, in datagrams, and whether nothing is left to do before the next
	// event. It may be called when there are none, and after the socket was removed.
	serve(events uint32) (count int, done bool)
}
