package fs

import (
	"runtime"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	batch   = 16                     // requests that may share one interrupt
	patient = 200 * time.Microsecond // a request that takes longer does not keep finished ones waiting
)

// worker serves one queue on a goroutine of its own.
type worker struct {
	dev   *Device
	index int
	bell  *virtio.Doorbell

	// Set by Activate, and the goroutine's own until it returns.
	queue *queue.Queue
	irq   virtio.Interrupter
	chain queue.Chain
	scratch

	mu   sync.Mutex
	late []late // guarded by mu: answers from other goroutines, to be pushed by this one
}

// late is a chain that was answered by another goroutine than the queue's.
type late struct {
	head uint16
	n    uint32
}

func newWorker(d *Device, index int, bell *virtio.Doorbell) *worker {
	return &worker{dev: d, index: index, bell: bell}
}

func (w *worker) run() {
	defer w.dev.running.Done()
	// As for disks: the thread waits in the doorbell anyway, and a goroutine that
	// is bound to it wakes in half the time.
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
// is not kept waiting by a slow request for what is done.
func (w *worker) drain() error {
	defer w.signal()
	if err := w.pushLate(); err != nil {
		return err
	}
	since, finished := time.Now(), 0
	for !w.dev.stop.Load() {
		ok, err := w.queue.Pop(&w.chain)
		if !ok {
			return err
		}
		head := w.chain.Head
		n, answered := w.handle(&w.chain)
		if !answered {
			continue
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

// answerLate hands over a chain whose answer is in place. Any goroutine may call
// it until srv.stop returns.
func (w *worker) answerLate(head uint16, n uint32) {
	w.mu.Lock()
	w.late = append(w.late, late{head, n})
	w.mu.Unlock()
	w.bell.Ring()
}

func (w *worker) pushLate() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.late {
		if err := w.queue.Push(l.head, l.n); err != nil {
			return err
		}
	}
	w.late = w.late[:0]
	return nil
}
