package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ackDelay is how long the guest may not hear of an acknowledgement. Other systems
// wait 40 ms and more before they send one (RFC 9293 §3.8.6.3).
const ackDelay = time.Millisecond

// shortFrame is the largest packet that is taken for a request or an answer, rather
// than a part of a stream.
const shortFrame = 1024

// lull puts off interrupts that are not worth one of their own. The stack
// acknowledges all that comes at once, and the answer to a request follows within
// microseconds: the guest finds both after one interrupt. The acknowledgement is in
// its ring all the same, for it to see when it looks. There is one for each queue
// pair; any goroutine may use it.
type lull struct {
	interrupt func()
	timer     *time.Timer
	armed     atomic.Bool // the timer will look
	pending   atomic.Bool // an acknowledgement is there that the guest was not told of
	stream    atomic.Bool // the guest's last packet waits for its acknowledgement
}

func (s *lull) init(interrupt func()) {
	s.interrupt = interrupt
	s.timer = time.AfterFunc(time.Hour, s.over)
	s.timer.Stop()
}

func (s *lull) stop() { s.timer.Stop() }

// received notes what kind of packet the guest sent: a sender with much to send, or
// one that opens a connection, goes on only when it is acknowledged.
func (s *lull) received(p []byte) {
	stream := len(p) > shortFrame || opens(p)
	if s.stream.Load() != stream {
		s.stream.Store(stream)
	}
}

// opens reports whether a packet has SYN set. It may be anything.
func opens(p []byte) bool {
	switch {
	case len(p) >= header.IPv4MinimumSize+header.TCPMinimumSize && header.IPVersion(p) == header.IPv4Version:
		h := header.IPv4(p)
		at := int(h.HeaderLength()) + header.TCPFlagsOffset
		return h.Protocol() == uint8(header.TCPProtocolNumber) && at < len(p) && header.TCPFlags(p[at])&header.TCPFlagSyn != 0
	case len(p) >= header.IPv6MinimumSize+header.TCPMinimumSize && header.IPVersion(p) == header.IPv6Version:
		return header.IPv6(p).TransportProtocol() == header.TCPProtocolNumber &&
			header.TCPFlags(p[header.IPv6MinimumSize+header.TCPFlagsOffset])&header.TCPFlagSyn != 0
	}
	return false
}

// isAck reports whether a packet to the guest says nothing but what arrived.
func isAck(pkt *stack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || pkt.Data().Size() > 0 {
		return false
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && h.Flags() == header.TCPFlagAck
}

// isSynAck reports whether a packet accepts a connection of the guest. The stack holds
// the connection's lock while it sends one. A guest that is told at once answers
// before that, and where there is only one CPU for all the stack then turns in a loop
// until the system lets the holder go on. So another goroutine tells the guest, which
// comes after this one or beside it.
func isSynAck(pkt *stack.PacketBuffer) bool {
	const synAck = header.TCPFlagSyn | header.TCPFlagAck
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && h.Flags()&synAck == synAck
}

// flush tells the guest of what was sent, now or, if it is not urgent, when the next
// flush is or the time is over.
func (s *lull) flush(urgent bool) {
	if urgent || s.stream.Load() || s.pending.Swap(true) {
		s.pending.Store(false)
		s.interrupt()
		return
	}
	if !s.armed.Swap(true) {
		s.timer.Reset(ackDelay)
	}
}

// over is the end of the time. Armed goes first: whoever waits since then arms anew.
func (s *lull) over() {
	s.armed.Store(false)
	if s.pending.Swap(false) {
		s.interrupt()
	}
}
