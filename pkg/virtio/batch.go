package virtio

import (
	"runtime"
	"time"
)

const (
	batch   = 16                     // requests that may share one interrupt
	patient = 200 * time.Microsecond // a request that takes longer does not keep finished ones waiting
)

// Batch says when the driver is to hear of finished requests: several share an
// interrupt, but none is kept waiting by a slow one behind it. It also takes the
// serving goroutine's [Turn]. The zero value is ready; it belongs to one goroutine.
type Batch struct {
	since    time.Duration
	finished int
	turn     Turn
}

// Start begins a batch, before the first request of a round.
func (b *Batch) Start() { b.since, b.finished = time.Since(epoch), 0 }

// Done counts a request, and calls tell if the driver is to hear of it now.
func (b *Batch) Done(tell func()) {
	now := time.Since(epoch)
	b.finished++
	turn := b.turn.due(now)
	if b.finished < batch && now-b.since <= patient && !turn {
		return
	}
	tell()
	if turn { // others may run for long
		runtime.Gosched()
		now = time.Since(epoch)
	}
	b.since, b.finished = now, 0
}
