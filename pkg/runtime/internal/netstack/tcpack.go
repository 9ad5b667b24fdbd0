package netstack

import (
	"math/bits"
	"sync"
	"time"
)

// ackDelay is how long the guest may not hear of what arrived. Other systems wait 40 ms and
// more before they acknowledge (RFC 9293 §3.8.6.3); the answer to a request, which
// acknowledges it, follows within microseconds.
const ackDelay = time.Millisecond

// shortSegment is the most that a segment holds that is taken for a request, rather than
// a part of a stream, whose sender goes on only when it is acknowledged.
const shortSegment = 1024

// owed says whether the guest is to hear of what arrived.
type owed uint8

const (
	owedNothing owed = iota
	owedLater        // within ackDelay
	owedSoon         // when all that the guest sent together was looked at
)

// ackList are the connections of a queue pair that owe the guest an acknowledgement.
type ackList struct {
	mu    sync.Mutex
	flows []*tcpFlow
	spare []*tcpFlow
	since time.Duration // the first of those that may wait; 0 for none
}

// owe notes a connection that owes. Preconditions: f.mu.
func (a *ackList) owe(f *tcpFlow) {
	f.listed = true
	a.mu.Lock()
	a.flows = append(a.flows, f)
	a.mu.Unlock()
}

// acknowledge pays what a queue pair owes, but for what may wait, of which it reports
// whether there is some. All pays that too.
func (t *tcpTable) acknowledge(q int, all bool) (more bool) {
	a := &t.acks[q]
	a.mu.Lock()
	flows := a.flows
	if len(flows) == 0 {
		a.mu.Unlock()
		return false
	}
	now := t.now()
	all = all || a.since != 0 && now-a.since >= t.delay
	a.flows, a.spare = a.spare[:0], nil
	a.mu.Unlock()
	kept := 0
	var queues uint64 // that are to be flushed
	for _, f := range flows {
		later, on := f.pay(all)
		queues |= on
		if later {
			flows[kept] = f
			kept++
		}
	}
	clear(flows[kept:])
	for queues != 0 {
		q := bits.TrailingZeros64(queues)
		t.net.link.flushQueue(q)
		queues &^= 1 << q
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if kept == 0 {
		a.since = 0
	} else if a.since == 0 {
		a.since = now
	}
	a.flows, a.spare = append(flows[:kept], a.flows...), a.flows[:0]
	clear(a.spare[:cap(a.spare)])
	return len(a.flows) > 0
}

// pay acknowledges what arrived, and returns the queue that has to be flushed for the guest
// to hear of it, as a bit; or it reports that it does so later.
func (f *tcpFlow) pay(all bool) (later bool, queue uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owes == owedLater && !all {
		return true, 0
	}
	f.listed = false
	if f.owes != owedNothing && f.state == tcpOpen && f.acknowledge() {
		queue = 1 << f.table.net.link.pairOf(f.key.src.Port(), f.key.dst.Port())
	}
	return false, queue
}
