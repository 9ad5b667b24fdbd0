package net

import "sync/atomic"

// Counters say what a device did since it was made. Bytes are those of frames,
// from their Ethernet headers on.
type Counters struct {
	FromGuest, FromGuestBytes uint64 // frames handed to the host
	ToGuest, ToGuestBytes     uint64 // frames stored in the guest's buffers

	// Frames of the guest that were dropped.
	Malformed uint64 // buffers that hold no frame: no header, or writable parts
	Short     uint64 // less than an Ethernet header
	Long      uint64 // more than the MTU, or than a segmented frame can be
	BadHeader uint64 // asks for what was not agreed, or points out of the frame
	WrongMAC  uint64 // not sent from the guest's own address
	VLAN      uint64 // tagged

	// Frames for the guest that were dropped.
	Refused uint64 // asks for what was not agreed, or has an impossible size
	NoRoom  uint64 // more than the driver's buffers can hold

	Full            uint64 // times that the driver had no buffers for a frame
	BadBuffers      uint64 // receive buffers too small for anything
	Commands        uint64 // on the control queue
	CommandsRefused uint64 // those of them that failed
}

// counts are the counters of one queue pair.
type counts struct {
	fromGuest, fromGuestBytes, toGuest, toGuestBytes atomic.Uint64
	drops                                            [causes]atomic.Uint64
	refused, noRoom, full, badBuffers                atomic.Uint64
}

// Counters returns what happened so far. Any goroutine may call it.
func (d *Device) Counters() (c Counters) {
	for _, p := range d.pairs {
		n := &p.count
		c.FromGuest += n.fromGuest.Load()
		c.FromGuestBytes += n.fromGuestBytes.Load()
		c.ToGuest += n.toGuest.Load()
		c.ToGuestBytes += n.toGuestBytes.Load()
		c.Malformed += n.drops[malformed].Load()
		c.Short += n.drops[short].Load()
		c.Long += n.drops[long].Load()
		c.BadHeader += n.drops[badHeader].Load()
		c.WrongMAC += n.drops[wrongMAC].Load()
		c.VLAN += n.drops[vlan].Load()
		c.Refused += n.refused.Load()
		c.NoRoom += n.noRoom.Load()
		c.Full += n.full.Load()
		c.BadBuffers += n.badBuffers.Load()
	}
	c.Commands, c.CommandsRefused = d.commands.Load(), d.refused.Load()
	return c
}
