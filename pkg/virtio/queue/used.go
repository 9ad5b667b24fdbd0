package queue

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// Push gives a chain back to the driver (§2.7.8). Written is the number of bytes
// stored at the start of its writable part. Chains may be pushed in any order.
// The error is [ErrHead] for a chain that is not in flight, or the [*Error] that
// broke the queue.
func (q *Queue) Push(head uint16, written uint32) error {
	if q.broken != nil {
		return q.broken
	}
	if head >= q.cfg.Size || !q.flies(head) {
		return ErrHead
	}
	q.inFlight[head/64] &^= 1 << (head % 64)
	q.flying--
	e := q.usedRing[int(q.nextUsed&(q.cfg.Size-1))*usedEntry:][:usedEntry]
	binary.LittleEndian.PutUint32(e, uint32(head))
	binary.LittleEndian.PutUint32(e[4:], written)
	q.nextUsed++
	q.unsignaled++
	q.usedIdx.Store(q.nextUsed)
	return nil
}

// NeedInterrupt reports whether the driver wants to hear of the chains pushed
// since the last call (§2.7.7.2). Call it after a batch of Push.
func (q *Queue) NeedInterrupt() bool {
	pushed := q.unsignaled
	if pushed == 0 || q.broken != nil {
		return false
	}
	old := q.signalled
	q.signalled, q.unsignaled = q.nextUsed, 0
	// used.idx must be visible before the driver's wish is read, or both sides
	// wait: the driver stores its wish, fences, and looks at used.idx once more.
	guestmem.Fence()
	if !q.cfg.EventIdx {
		return q.availFlags.Load()&availNoInterrupt == 0
	}
	if pushed > 0xffff { // the indices went round: every wish was passed
		return true
	}
	return q.nextUsed-q.usedEvent.Load()-1 < q.nextUsed-old
}

// DisableNotify asks the driver not to notify while the device looks at the
// queue anyway (§2.7.10). The driver may still do so.
func (q *Queue) DisableNotify() {
	// With EVENT_IDX flags stay zero, and an avail_event that is not moved on has that effect.
	if !q.cfg.EventIdx {
		q.usedFlags.Store(usedNoNotify)
	}
}

// EnableNotify asks for a notification of the next chain, and reports whether
// chains came in meanwhile, for which there may be none. Pop until empty, call
// it, and start over when more is true.
func (q *Queue) EnableNotify() (more bool, err error) {
	if q.broken != nil {
		return false, q.broken
	}
	if q.cfg.EventIdx {
		q.availEvent.Store(q.nextAvail)
	} else {
		q.usedFlags.Store(0)
	}
	guestmem.Fence()
	return q.look()
}
