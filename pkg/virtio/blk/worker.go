package blk

import (
	"errors"
	"runtime"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	batch   = 16                     // requests that may share one interrupt
	patient = 200 * time.Microsecond // a request that takes longer does not keep finished ones waiting
)

// worker serves one request queue on a goroutine of its own.
type worker struct {
	dev   *Device
	index int
	bell  *virtio.Doorbell

	// Set by Activate, and the goroutine's own until it returns.
	queue    *queue.Queue
	irq      virtio.Interrupter
	features virtio.Features
	chain    queue.Chain
	ranges   [maxSegments * rangeSize]byte
}

func (w *worker) run() {
	defer w.dev.running.Done()
	// The thread waits in the doorbell anyway. Bound to it, the goroutine wakes
	// in half the time, because no other thread has to take it over.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for !w.dev.stop.Load() {
		if err := w.serve(); err != nil {
			w.irq.NeedsReset(err)
			return
		}
		if !w.bell.Wait() {
			return
		}
	}
}

// serve works until the queue is empty and the next request will ring the bell.
func (w *worker) serve() error {
	for {
		w.queue.DisableNotify()
		if err := w.drain(); err != nil {
			return err
		}
		if w.dev.stop.Load() {
			return nil
		}
		if more, err := w.queue.EnableNotify(); !more {
			return err
		}
	}
}

// drain serves all requests there are. The driver hears of them in batches, but
// is not kept waiting by a slow disk for what is done.
func (w *worker) drain() error {
	defer w.signal()
	since, finished := time.Now(), 0
	for !w.dev.stop.Load() {
		ok, err := w.queue.Pop(&w.chain)
		if !ok {
			return err
		}
		head := w.chain.Head
		n, err := w.handle(&w.chain)
		if err != nil {
			return err
		}
		if err := w.queue.Push(head, n); err != nil {
			return err
		}
		finished++
		if now := time.Now(); finished == batch || now.Sub(since) > patient {
			w.signal()
			since, finished = now, 0
		}
	}
	return nil
}

// signal tells the driver what is done, if it wants to know.
func (w *worker) signal() {
	if w.queue.NeedInterrupt() {
		w.irq.Used(w.index)
	}
}

// failed counts and reports a refusal of the host's disk.
func (w *worker) failed(what string, err error) status {
	w.dev.count.host.Add(1)
	w.dev.limit.Log(w.dev.cfg.Log, "blk: %s disk: %v", what, err)
	if errors.Is(err, errors.ErrUnsupported) {
		return statusUnsupported
	}
	return statusIOErr
}
