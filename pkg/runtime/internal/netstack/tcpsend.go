package netstack

import (
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// This is the way to the guest.

const tcpHeader = header.TCPMinimumSize

// transmit sends a segment with n bytes from the off-th in out on. Preconditions: mu.
func (f *tcpFlow) transmit(s *segment, off, n int) vnet.Status {
	a, b := f.out.slices(off, n)
	return f.table.net.link.sendSegment(f, &f.key, s, a, b, max(f.mss, leastMSS))
}

// header begins a segment: what was received, and how much more may come.
// Preconditions: mu.
func (f *tcpFlow) header(flags header.TCPFlags, seq uint32) segment {
	w := max(f.room(), f.edge-f.rcv) // what was offered is not taken back
	field := min(w>>f.scaled, 0xffff)
	if edge := f.rcv + field<<f.scaled; after(edge, f.edge) {
		f.edge = edge
	}
	return segment{seq: seq, ack: f.rcv, flags: flags | flagAck, window: uint16(field), shift: noScale}
}

// room is how much more of the guest's there is room for.
func (f *tcpFlow) room() uint32 {
	if f.sniff != nil {
		return uint32(max(0, sniffWindow-len(f.sniff.Bytes())))
	}
	return uint32(maxWindow - f.in.n)
}

// sniffWindow is what the guest may send before it is judged.
const sniffWindow = 64 << 10

// acknowledge tells the guest what arrived. Preconditions: mu.
func (f *tcpFlow) acknowledge() {
	s := f.header(0, f.nxt)
	if f.sent(f.transmit(&s, 0, 0)) {
		f.table.net.link.flush(&f.key)
	}
}

// sent notes what became of a segment, and reports whether it is out. One that has no room
// is sent again by resume. Preconditions: mu.
func (f *tcpFlow) sent(status vnet.Status) bool {
	if status == vnet.Full {
		return false
	}
	f.owes = owedNothing
	return true
}

// answer accepts the guest's SYN, or calls the guest. Preconditions: mu, and that state.
func (f *tcpFlow) answer() {
	s := segment{seq: f.una, flags: flagSyn, window: 0xffff, shift: windowShift}
	if f.state == tcpAnswered {
		s.ack, s.flags = f.rcv, flagSyn|flagAck
		f.edge = f.rcv + 0xffff
		if f.scaled == 0 {
			s.shift = noScale
		}
	}
	s.mss = uint16(int(f.table.net.link.mtu) - ipHeaderLen(f.key.src.Addr()) - tcpHeader)
	f.top = f.una + 1
	f.nxt = f.top
	f.await()
	if f.transmit(&s, 0, 0) == vnet.Sent {
		f.table.net.link.flush(&f.key)
	}
}

// reset has the guest see the end at once. Preconditions: mu.
func (f *tcpFlow) reset() {
	s := segment{seq: f.nxt, ack: f.rcv, flags: flagRst | flagAck, shift: noScale}
	if f.state <= tcpConnecting {
		s.seq = 0 // RFC 9293 §3.10.7.1
	}
	if f.table.net.link.sendSegment(nil, &f.key, &s, nil, nil, leastMSS) == vnet.Sent {
		f.table.net.link.flush(&f.key)
	}
}

// pump sends what the guest's window and its ring have room for, and reports whether that
// was anything. Preconditions: mu, and the connection is open.
func (f *tcpFlow) pump() (any bool) {
	most := f.mss
	if f.table.net.link.takesSegments() {
		most = gsoMax
	}
	for !f.blocked {
		flying := int(f.nxt - f.una)
		unsent := f.out.n - flying // -1 when the FIN is out too
		room := int(f.window) - flying
		n := max(0, min(unsent, room, most))
		fin := f.ended && !f.acked && unsent == n && room > n
		if n == 0 && !fin || n < unsent && n < f.mss && flying > 0 { // RFC 9293 §3.8.6.2.1
			break
		}
		if !f.emit(flying, n, fin) {
			break
		}
		any = true
		if f.careful { // one after a loss, to see what comes
			f.careful = false
			break
		}
	}
	return any
}

// emit sends n bytes and maybe the end after them. Preconditions: mu.
func (f *tcpFlow) emit(off, n int, fin bool) bool {
	flags := header.TCPFlags(0)
	if off+n == f.out.n {
		flags |= flagPsh
	}
	if fin {
		flags |= flagFin
	}
	s := f.header(flags, f.nxt)
	if !f.sent(f.transmit(&s, off, n)) {
		return false
	}
	f.nxt += s.length(n)
	if after(f.nxt, f.top) {
		f.top = f.nxt
	}
	f.await()
	return true
}

// probe asks the guest for its window, or whether it is there: RFC 9293 §3.8.6.1 and
// §3.8.4. Preconditions: mu.
func (f *tcpFlow) probe() {
	s := f.header(0, f.una-1)
	if f.transmit(&s, 0, 0) == vnet.Sent {
		f.table.net.link.flush(&f.key)
	}
}

// resume goes on after there was no room, and reports whether there was some now.
func (f *tcpFlow) resume() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocked = false
	switch f.state {
	case tcpAnswered, tcpCalling:
		f.answer()
	case tcpOpen:
		f.proceed()
		if f.owes != owedNothing && f.state == tcpOpen {
			f.acknowledge()
		}
	}
	return !f.blocked
}
