package virtio

import (
	"runtime"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// ServeQueue is the life of a goroutine that serves one queue: it calls drain, which
// works until the queue is empty, whenever the bell rings, until stop is set. An error
// of drain or of the queue is reported as one of the driver, and ends it.
func ServeQueue(stop *atomic.Bool, bell *Doorbell, q *queue.Queue, irq Interrupter, drain func() error) {
	// The thread waits in the doorbell anyway. Bound to it, the goroutine wakes
	// in half the time, because no other thread has to take it over.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for !stop.Load() {
		if err := serveUntilQuiet(stop, q, drain); err != nil {
			irq.NeedsReset(err)
			return
		}
		if !bell.Wait() {
			return
		}
	}
}

// serveUntilQuiet returns when the queue is empty and the next request will ring the bell.
func serveUntilQuiet(stop *atomic.Bool, q *queue.Queue, drain func() error) error {
	for {
		q.DisableNotify()
		if err := drain(); err != nil {
			return err
		}
		if stop.Load() {
			return nil
		}
		if more, err := q.EnableNotify(); !more {
			return err
		}
	}
}
