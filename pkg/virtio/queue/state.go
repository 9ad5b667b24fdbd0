package queue

import "github.com/anthropics/boxlite/pkg/guestmem"

// State is a queue as plain data, for a snapshot. The rings themselves are in
// guest RAM.
type State struct {
	Config
	NextAvail uint16   // §2.7.6: entries before it were popped
	NextUsed  uint16   // §2.7.8: our used.idx
	Signalled uint16   // used.idx at the last NeedInterrupt
	Pending   uint32   // pushes since then
	InFlight  []uint16 // heads popped and not pushed, ascending
	Broken    *Error   // nil unless the driver broke the queue
}

// State returns what [Restore] needs. The queue must be at rest.
func (q *Queue) State() State {
	s := State{
		Config: q.cfg, NextAvail: q.nextAvail, NextUsed: q.nextUsed,
		Signalled: q.signalled, Pending: q.unsignaled, Broken: q.broken,
	}
	for head := range q.cfg.Size {
		if q.flies(head) {
			s.InFlight = append(s.InFlight, head)
		}
	}
	return s
}

// Restore returns the queue that had the given state, after the same checks as
// [New]. The device must still push the chains in flight or pop nothing more.
func Restore(mem *guestmem.Memory, s State) (*Queue, error) {
	q, err := New(mem, s.Config)
	if err != nil {
		return nil, err
	}
	q.nextAvail, q.seenAvail, q.nextUsed = s.NextAvail, s.NextAvail, s.NextUsed
	q.signalled, q.unsignaled, q.broken = s.Signalled, s.Pending, s.Broken
	for _, head := range s.InFlight {
		if head >= s.Size || q.flies(head) {
			return nil, &Error{"2.7.13", "saved state has an impossible chain in flight"}
		}
		q.inFlight[head/64] |= 1 << (head % 64)
		q.flying++
	}
	return q, nil
}
