package queue

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// Used is a chain that the device is done with.
type Used struct {
	Head    uint16
	Written uint32 // bytes stored at the start of its writable part
}

// Push gives a chain back to the driver (§2.7.8). Written is the number of bytes
// stored at the start of its writable part. Chains may be pushed in any order.
// The error is [ErrHead] for a chain that is not in flight, or the [*Error] that
// broke the queue.
func (q *Queue) Push(head uint16, written uint32) error {
	if q.broken != nil {
		return q.broken
	}
	err := q.stage(Used{head, written})
	q.usedIdx.Store(q.nextUsed)
	return err
}

// PushAll gives several chains back at once: a driver that sees the first sees
// all of them, as is needed for chains that make sense together only (§5.1.6.4).
// The errors are those of Push; chains before the one at fault are given back.
func (q *Queue) PushAll(done []Used) error {
	if q.broken != nil {
		return q.broken
	}
	for _, u := range done {
		if err := q.stage(u); err != nil {
			q.usedIdx.Store(q.nextUsed)
			return err
		}
	}
	q.usedIdx.Store(q.nextUsed)
	return nil
}

// stage writes an element of the used ring, which the driver sees once used.idx
// is stored.
func (q *Queue) stage(u Used) error {
	if u.Head >= q.cfg.Size || !q.flies(u.Head) {
		return ErrHead
	}
	q.inFlight[u.Head/64] &^= 1 << (u.Head % 64)
	q.flying--
	e := q.usedRing[int(q.nextUsed&(q.cfg.Size-1))*usedEntry:][:usedEntry]
	binary.LittleEndian.PutUint32(e, uint32(u.Head))
	binary.LittleEndian.PutUint32(e[4:], u.Written)
	q.nextUsed++
	q.unsignaled++
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
