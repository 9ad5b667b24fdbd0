package virtio

import (
	"runtime"
	"time"
)

const (
	turnEvery = 5 * time.Millisecond // the runtime's monitor looks for 10
	turnBusy  = 2                    // rounds within that time that make a thread busy
)

// Turn keeps the Go runtime's monitor from looking after a thread that serves a
// queue (retake in runtime/proc.go, Go 1.26). Once no goroutine was scheduled on a
// thread's P for 10 ms, the monitor takes the P away at every look while the thread
// is in the kernel. With no P in use it goes to sleep, and the thread, back from the
// kernel, has to wake it, which is a system call. A goroutine that is bound to its
// thread is not scheduled unless it asks. The zero value is ready; it belongs to
// one goroutine.
type Turn struct {
	last   time.Duration
	rounds int
}

// epoch is what this package counts time from.
var epoch = time.Now()

// Take goes through the scheduler if the goroutine is busy and was not there for a
// while. To be called after each round of work.
func (t *Turn) Take() {
	if t.due(time.Since(epoch)) {
		runtime.Gosched()
	}
}

// due counts a round, and returns true if it is time to go through the scheduler.
func (t *Turn) due(now time.Duration) bool {
	t.rounds++
	if now-t.last < turnEvery {
		return false
	}
	busy := t.rounds >= turnBusy
	t.last, t.rounds = now, 0
	return busy
}
