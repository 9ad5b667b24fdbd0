package vmm

import (
	"net/netip"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Network describes a box's network.
type Network struct {
	MTU     int           `json:",omitempty"` // bytes; 0 for the default
	Policy  egress.Config //
	Ports   []Port        `json:",omitempty"`
	Capture string        `json:",omitempty"` // file for the frames in pcap format; empty for none

	// Where the policy asks: whether the parent will call Decide, which the first
	// question then waits for, and how long an answer may take, 0 for the default.
	Decider    bool          `json:",omitempty"`
	AskTimeout time.Duration `json:",omitempty"`
}

// Port is a port of the host that leads to one of the guest.
type Port struct {
	Protocol egress.Protocol
	Host     netip.AddrPort // port 0: any that is free
	Guest    uint16
}

// NetworkStats are the counters of a box's network since it started.
type NetworkStats struct {
	Sent, Received uint64 // bytes of frames, as the guest counts them
	TCPActive      uint64
	TCPTotal       uint64
	TCPErrors      uint64
	UDPActive      uint64
	Denied         uint64
	Dropped        uint64
}

// FlowName is the file in a box's folder that tells of its connections.
const FlowName = "network.log"
