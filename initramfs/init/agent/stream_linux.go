package agent

import (
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// maxParked bounds the stream connections that no execution has claimed yet.
const maxParked = 1024

// streamTable brings together stream connections and the executions they are
// for, whichever comes first.
type streamTable struct {
	mu     sync.Mutex
	slots  map[agentapi.StreamHeader]*slot
	parked []parked // oldest first
}

type parked struct {
	h  agentapi.StreamHeader
	sl *slot
}

// slot is the meeting point of one stream.
type slot struct {
	conn    chan Conn // has room for one
	filled  bool      // a connection came; a second one is refused
	claimed bool      // an execution waits, or took it
}

func newStreamTable() *streamTable { return &streamTable{slots: map[agentapi.StreamHeader]*slot{}} }

func (t *streamTable) slot(h agentapi.StreamHeader) *slot {
	sl := t.slots[h]
	if sl == nil {
		sl = &slot{conn: make(chan Conn, 1)}
		t.slots[h] = sl
	}
	return sl
}

// offer hands in a connection. It is closed when nobody claims it within grace,
// or when the stream has one already. Of too many unclaimed ones the oldest goes.
func (t *streamTable) offer(h agentapi.StreamHeader, conn Conn, grace time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sl := t.slot(h)
	if sl.filled {
		conn.Close()
		return
	}
	sl.filled = true
	sl.conn <- conn
	if sl.claimed {
		return
	}
	if len(t.parked) == maxParked {
		t.evict(t.parked[0])
	}
	p := parked{h, sl}
	t.parked = append(t.parked, p)
	time.AfterFunc(grace, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.evict(p)
	})
}

// evict drops a connection if it is still unclaimed.
func (t *streamTable) evict(p parked) {
	if !t.unpark(p.sl) {
		return
	}
	delete(t.slots, p.h)
	(<-p.sl.conn).Close()
}

func (t *streamTable) unpark(sl *slot) bool {
	for i, p := range t.parked {
		if p.sl == sl {
			t.parked = append(t.parked[:i], t.parked[i+1:]...)
			return true
		}
	}
	return false
}

// claim announces that an execution wants a stream and returns where its
// connection arrives.
func (t *streamTable) claim(h agentapi.StreamHeader) <-chan Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	sl := t.slot(h)
	if sl.filled && !sl.claimed {
		t.unpark(sl)
	}
	sl.claimed = true
	return sl.conn
}

// release forgets a stream, claimed or not, when its execution is over. A connection that was never taken is closed.
func (t *streamTable) release(h agentapi.StreamHeader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sl := t.slots[h]
	if sl == nil {
		return
	}
	t.unpark(sl) // when the execution failed before it claimed anything
	delete(t.slots, h)
	select {
	case conn := <-sl.conn:
		conn.Close()
	default:
	}
}
