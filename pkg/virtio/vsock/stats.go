package vsock

import "sync/atomic"

// Stats is what a device did since it was made.
type Stats struct {
	BytesSent      uint64 // payload to the guest
	BytesReceived  uint64 // payload from the guest
	Open           int    // connections in any state
	Opened         uint64 // connections ever, failed ones included
	Refused        uint64 // requests of the guest turned down
	ResetsSent     uint64
	ResetsReceived uint64
	ResetsDropped  uint64 // for want of a guest that takes them
	Malformed      uint64 // packets and buffers that break the specification
}

type counters struct {
	bytesSent, bytesReceived, opened, refused            atomic.Uint64
	resetsSent, resetsReceived, resetsDropped, malformed atomic.Uint64
}

// Stats returns what happened so far.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	open := d.open
	d.mu.Unlock()
	n := &d.count
	return Stats{
		n.bytesSent.Load(), n.bytesReceived.Load(), open, n.opened.Load(), n.refused.Load(),
		n.resetsSent.Load(), n.resetsReceived.Load(), n.resetsDropped.Load(), n.malformed.Load(),
	}
}
