package virtiotest

import (
	"sync"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Echo is the simplest device: each of its queues copies what is readable in a
// chain to what is writable, on the goroutine that notifies. Its configuration
// space is 8 bytes that the driver may write. It stands in for a device in tests
// of transports and drivers.
type Echo struct {
	Sizes []uint16 // of its queues

	mu     sync.Mutex
	config [8]byte
	act    *virtio.Activation
	chain  queue.Chain
}

// ID implements [virtio.Device]; §5 gives this number to nobody.
func (e *Echo) ID() virtio.DeviceID { return 63 }

// Features implements [virtio.Device].
func (e *Echo) Features() virtio.Features { return 1 }

// QueueSizes implements [virtio.Device].
func (e *Echo) QueueSizes() []uint16 { return e.Sizes }

// ReadConfig implements [virtio.Device].
func (e *Echo) ReadConfig(p []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	copy(p, e.config[:])
}

// WriteConfig implements [virtio.Device].
func (e *Echo) WriteConfig(p []byte, off uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if off < uint32(len(e.config)) {
		copy(e.config[off:], p)
	}
}

// Activate implements [virtio.Device].
func (e *Echo) Activate(a virtio.Activation) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.act = &a
	return nil
}

// Reset implements [virtio.Device].
func (e *Echo) Reset() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.act = nil
	return nil
}

// Notify implements [virtio.Device].
func (e *Echo) Notify(q int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.act == nil || e.act.Queues[q] == nil {
		return
	}
	if err := e.serve(e.act.Queues[q]); err != nil {
		e.act.IRQ.NeedsReset(err)
	}
	if e.act.Queues[q].NeedInterrupt() {
		e.act.IRQ.Used(q)
	}
}

func (e *Echo) serve(q *queue.Queue) error {
	for {
		q.DisableNotify()
		for {
			ok, err := q.Pop(&e.chain)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			n := 0
			for _, b := range e.chain.Readable {
				done := queue.Scatter(e.chain.Writable, b)
				e.chain.Writable = queue.Skip(e.chain.Writable, done)
				n += done
			}
			if err := q.Push(e.chain.Head, uint32(n)); err != nil {
				return err
			}
		}
		if more, err := q.EnableNotify(); !more {
			return err
		}
	}
}
