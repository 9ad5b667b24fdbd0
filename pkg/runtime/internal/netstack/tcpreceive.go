package netstack

import (
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// This is the way from the guest to the host, RFC 9293 §3.10.7. Resets and SYNs are looked
// at before the place of a segment, as they are answered by what is expected whatever it is.

const (
	// windowShift and maxWindow are what the guest may send ahead. Linux sends no segment
	// larger than half a window: with less than 256 KiB it would send less than 64 KiB in
	// one piece.
	windowShift = 7
	maxWindow   = maxRing

	// dupThreshold is how many acknowledgements of the same in a row say that what follows was
	// lost (RFC 5681 §3.2).
	dupThreshold = 3
)

// take is a segment of the guest on queue pair q.
func (f *tcpFlow) take(q int, s *segment, v [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.state {
	case tcpJudged, tcpConnecting:
		if s.flags&flagRst != 0 && s.seq == f.rcv {
			f.end(errReset)
		}
		return
	case tcpCalling:
		f.called(s)
		return
	case tcpAnswered:
		if !f.confirmed(s) {
			return
		}
	case tcpOver:
		return
	}
	if f.gone {
		if s.flags&(flagSyn|flagAck) != flagSyn { // another connection of the guest's can begin later
			f.table.refuse(&f.key, s, queue.Len(v))
		}
		return
	}
	f.heard()
	n := queue.Len(v)
	switch {
	case s.flags&flagRst != 0:
		if s.seq == f.rcv {
			f.leave()
		} else { // RFC 5961 §3.2, and beyond the window too: some probe that with a byte
			f.owes = owedSoon
		}
	case s.flags&flagSyn != 0:
		f.owes = owedSoon // RFC 5961 §4.2
	case s.flags&flagAck != 0:
		f.accept(s, v, n)
	}
	f.proceed()
	if f.owes != owedNothing && f.state == tcpOpen {
		if q == anyPair {
			f.acknowledgeNow()
		} else if !f.listed {
			f.table.acks[q].owe(f)
		}
	}
}

// leave is the guest's reset. What it had sent before its end is for the host all the same,
// unless that has more to say: a kernel forgets a connection whose program is gone while the
// far end has yet to take it. Preconditions: mu.
func (f *tcpFlow) leave() {
	if !f.fin || f.shut || f.broken != nil {
		f.end(errReset)
		return
	}
	f.gone, f.ended, f.acked = true, true, true
	f.out.clear(&f.table.memory)
	f.una, f.nxt = f.top, f.top
	f.repeatAt, f.progress = 0, f.table.now()
	f.wakeAt(f.progress + f.table.orphan)
}

// called is the guest's answer to our SYN. Preconditions: mu.
func (f *tcpFlow) called(s *segment) {
	switch {
	case s.flags&flagAck != 0 && s.ack != f.top:
		f.table.refuse(&f.key, s, 0) // of a connection before, which is over now
		if s.flags&flagRst == 0 {
			f.answer()
		}
	case s.flags&flagAck == 0: // simultaneous open: nobody calls a port that it cannot know
	case s.flags&flagRst != 0:
		f.end(errRefused)
	case s.flags&flagSyn != 0:
		f.greeted(s)
		f.una, f.recover = f.top, f.top
		f.settle()
		f.opened()
		f.owes = owedSoon
		f.acknowledgeNow()
		if err := f.watch(); err != nil {
			f.end(err)
			return
		}
		f.more = true
		f.proceed()
	}
}

// confirmed takes what follows our answer to the guest's SYN, and reports whether the
// connection is open. Preconditions: mu.
func (f *tcpFlow) confirmed(s *segment) bool {
	switch {
	case s.flags&flagRst != 0:
		if s.seq == f.rcv {
			f.end(errReset)
		}
	case s.flags&flagSyn != 0:
		f.answer() // it has not heard us; or it has forgotten, and resets what it hears
	case s.flags&flagAck == 0:
	case s.ack != f.top:
		f.table.refuse(&f.key, s, 0)
	default:
		f.una, f.recover = f.top, f.top
		f.settle()
		f.window, f.wl1, f.wl2 = uint32(s.window)<<f.shift, s.seq, s.ack
		f.opened()
		return true
	}
	return false
}

// accept takes an acknowledgement with n bytes. Preconditions: mu.
func (f *tcpFlow) accept(s *segment, v [][]byte, n int) {
	if after(s.seq, f.edge) { // more than it was offered, whatever it says
		f.owes = owedSoon
		return
	}
	if flying := f.top - f.una; s.ack-f.una <= flying {
		f.acknowledged(s, n)
	} else if after(s.ack, f.top) { // of what was never sent
		f.owes = owedSoon
		return
	}
	fin := s.flags&flagFin != 0
	if n == 0 && !fin && s.seq == f.rcv {
		return
	}
	had := int32(f.rcv - s.seq) // of it already
	switch {
	case had < 0: // something is missing: each says so, for the guest to count (RFC 5681 §4.2)
		f.acknowledgeNow()
		return
	case int(had) >= int(s.length(n)), f.fin: // nothing new: a probe, too
		f.owes = owedSoon
		return
	case had > 0:
		v, n = queue.Skip(v, int(had)), n-int(had)
	}
	if most := int(f.edge - f.rcv); int(s.length(n)) > most { // the FIN takes room as well
		n, fin = min(n, most), false
		v = queue.Prefix(v, n)
		f.owes = owedSoon
	}
	if n > 0 {
		took, err := f.deliver(v, n)
		if err != nil {
			f.end(err)
			return
		}
		f.rcv += uint32(took)
		if took < n {
			f.owes = owedSoon
			return
		}
		if f.owes != owedNothing || n > shortSegment { // a second one, or a stream
			f.owes = owedSoon
		} else {
			f.owes = owedLater
		}
	}
	if fin {
		f.rcv++
		f.fin = true
		f.owes = max(f.owes, owedLater)
		if f.sniff != nil {
			if err := f.judged(f.sniff.End(true), true); err != nil {
				f.end(err)
				return
			}
		}
		f.shutdown()
	}
}

// acknowledged takes what a segment says of what the guest has, and of its window.
// Segments on different queues can overtake each other. Preconditions: mu, and
// una <= s.ack <= top.
func (f *tcpFlow) acknowledged(s *segment, n int) {
	same := true // nothing is new
	if w := uint32(s.window) << f.shift; after(s.seq, f.wl1) || s.seq == f.wl1 && !after(f.wl2, s.ack) {
		same = w == f.window
		f.window, f.wl1, f.wl2 = w, s.seq, s.ack
	}
	if s.ack == f.una {
		if same && n == 0 && s.flags&flagFin == 0 && f.top != f.una {
			f.duplicate()
		} else if !same && f.probing {
			f.repeatAt, f.probing = 0, false
		}
		return
	}
	got := int(s.ack - f.una)
	if got > f.out.n { // the FIN is one more
		f.acked = true
		got = f.out.n
	}
	f.out.drop(&f.table.memory, got)
	f.una = s.ack
	if after(f.una, f.nxt) {
		f.nxt = f.una
	}
	if after(f.una, f.recover) {
		f.recover = f.una // it must not fall so far behind that it seems to lie ahead
	}
	f.settle()
}

// duplicate is one more acknowledgement of the same. Preconditions: mu.
func (f *tcpFlow) duplicate() {
	if f.dup++; f.dup == dupThreshold && !after(f.recover, f.una) {
		f.recover = f.top
		f.nxt = f.una
	}
}

// deliver has the host take bytes of the guest, or keeps them for it, and returns how
// many of them. Preconditions: mu.
func (f *tcpFlow) deliver(v [][]byte, n int) (took int, err error) {
	if f.broken != nil {
		return n, nil // nobody takes it; the guest hears of that when it has what is left
	}
	if f.sniff != nil {
		b := make([]byte, min(n, egress.SniffLimit-len(f.sniff.Bytes()))) // with as much it has decided
		took = queue.Gather(b, v)
		f.sniffing()
		verdict, done := f.sniff.Feed(b)
		if err := f.judged(verdict, done); err != nil || !done || took == n {
			return took, err
		}
		v = queue.Skip(v, took)
		rest, err := f.deliver(v, n-took)
		return took + rest, err
	}
	if f.in.n == 0 {
		if took, v, err = f.write(v, n); err != nil {
			f.breakDown(err)
			return n, nil
		} else if took == n {
			return took, nil
		}
	}
	return took + f.keep(v), nil
}

// keep has bytes wait for room in the socket, as many as may. Preconditions: mu.
func (f *tcpFlow) keep(v [][]byte) (kept int) {
	for _, p := range v {
		for len(p) > 0 {
			a, _ := f.in.space(&f.table.memory)
			n := copy(a, p)
			if n == 0 {
				f.tight = true
				return kept
			}
			f.in.added(n)
			p = p[n:]
			kept += n
		}
	}
	return kept
}

// judged goes on, or not, with what the guest's first bytes were found to be.
// Preconditions: mu.
func (f *tcpFlow) judged(v egress.Verdict, done bool) error {
	if !done {
		return nil
	}
	if !v.Allow {
		f.flow.Verdict = v
		return errDenied
	}
	first := f.sniff.Bytes()
	f.sniff = nil
	took, rest, err := f.write([][]byte{first}, len(first))
	if err != nil {
		f.breakDown(err)
		return nil
	}
	if f.keep(rest) < len(first)-took {
		return errNoMemory // and it had been acknowledged
	}
	return nil
}
