package blk

import (
	"errors"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
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
	batch    virtio.Batch
	ranges   [maxSegments * rangeSize]byte
}

func (w *worker) run() {
	defer w.dev.running.Done()
	virtio.ServeQueue(&w.dev.stop, w.bell, w.queue, w.irq, w.drain)
}

// drain serves all requests there are. The driver hears of them in batches, but
// is not kept waiting by a slow disk for what is done.
func (w *worker) drain() error {
	defer w.signal()
	w.batch.Start()
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

// failed counts and reports a refusal of the host's disk.
func (w *worker) failed(what string, err error) status {
	w.dev.count.host.Add(1)
	w.dev.limit.Log(w.dev.cfg.Log, "blk: %s disk: %v", what, err)
	if errors.Is(err, errors.ErrUnsupported) {
		return statusUnsupported
	}
	return statusIOErr
}
