package fs

import (
	"sync"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
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
	batch virtio.Batch
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
	virtio.ServeQueue(&w.dev.stop, w.bell, w.queue, w.irq, w.drain)
}

// drain serves all requests there are. The driver hears of them in batches, but
// is not kept waiting by a slow request for what is done.
func (w *worker) drain() error {
	defer w.signal()
	if err := w.pushLate(); err != nil {
		return err
	}
	w.batch.Start()
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
		w.batch.Done(w.signal)
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
