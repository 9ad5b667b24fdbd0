package netstack

import (
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// This is the way to the guest.

// transmit sends a segment with n bytes from the off-th in out on, and reports whether it
// is on its way. One that is not goes when resume is called. Preconditions: mu.
func (f *tcpFlow) transmit(s *segment, off, n int) bool {
	a, b := f.out.slices(off, n)
	return f.table.net.link.sendSegment(f, &f.key, s, a, b, f.mss) != vnet.Full
}

// say sends a segment by itself, of which nothing is done again: it waits for room by
// itself, too.
func (f *tcpFlow) say(s *segment) {
	f.table.net.link.say(&f.key, s)
}

func (l *link) say(key *flowKey, s *segment) {
	if l.sendSegment(nil, key, s, nil, nil, leastMSS) == vnet.Sent {
		l.flush(key)
	}
}

// header begins a segment: what was received, and how much more may come. What the guest
// was offered is not taken back, but for what the scale leaves out. Preconditions: mu.
func (f *tcpFlow) header(flags header.TCPFlags, seq uint32) segment {
	w := max(f.room(), f.edge-f.rcv)
	field := min(w>>f.scaled, 0xffff)
	if edge := f.rcv + field<<f.scaled; after(edge, f.edge) {
		f.edge = edge
	}
	return segment{seq: seq, ack: f.rcv, flags: flags | flagAck, window: uint16(field), shift: noScale}
}

// room is how much more of the guest's there is room for.
func (f *tcpFlow) room() uint32 {
	switch {
	case f.sniff != nil:
		return uint32(egress.SniffLimit - len(f.sniff.Bytes()))
	case f.tight:
		return uint32(f.in.size() - f.in.n)
	}
	return uint32(maxWindow - f.in.n)
}

// acknowledge tells the guest what arrived; it hears of it with the next flush. It reports
// whether that was possible now. Preconditions: mu.
func (f *tcpFlow) acknowledge() bool {
	s := f.header(0, f.top)
	if !f.transmit(&s, 0, 0) {
		return false
	}
	f.owes = owedNothing
	return true
}

// acknowledgeNow has the guest hear of it at once. Preconditions: mu.
func (f *tcpFlow) acknowledgeNow() {
	if f.acknowledge() {
		f.flushCard()
	}
}

func (f *tcpFlow) flushCard() { f.table.net.link.flush(&f.key) }

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
	s.mss = uint16(f.table.net.link.mss(f.key.src.Addr()))
	f.top = f.una + 1
	f.nxt = f.top
	f.await()
	if f.transmit(&s, 0, 0) {
		f.flushCard()
	}
}

// reset has the guest see the end at once. Preconditions: mu.
func (f *tcpFlow) reset() {
	s := segment{seq: f.top, ack: f.rcv, flags: flagRst | flagAck, shift: noScale}
	if f.state <= tcpConnecting {
		s.seq = 0 // RFC 9293 §3.10.7.1
	}
	f.say(&s)
}

// pump sends what the guest's window and its ring have room for, and returns how many
// segments that were. Preconditions: mu, and the connection is open.
func (f *tcpFlow) pump() (count int) {
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
		count++
		if f.careful { // one after a loss, to see what comes
			f.careful = false
			break
		}
	}
	return count
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
	if !f.transmit(&s, off, n) {
		return false
	}
	f.owes = owedNothing
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
	f.say(&s)
}

// resume goes on after there was no room, and reports whether and where there is none now.
func (f *tcpFlow) resume() (on int, blocked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocked = false
	switch f.state {
	case tcpAnswered, tcpCalling:
		f.answer()
	case tcpOpen:
		f.proceed()
		if f.owes != owedNothing && f.state == tcpOpen {
			f.acknowledgeNow()
		}
	}
	return f.blockedOn, f.blocked
}
