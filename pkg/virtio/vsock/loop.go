package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) != queues {
		return fmt.Errorf("vsock: %d queues, not %d", len(a.Queues), queues)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.done != nil {
		return errors.New("vsock: device is closed, or active already")
	}
	d.irq, d.rx.q, d.tx.q, d.ev = a.IRQ, a.Queues[queueRX], a.Queues[queueTX], a.Queues[queueEvent]
	d.vec = new(vector)
	d.live, d.stopping, d.done = true, false, make(chan struct{})
	// The goroutine finds all work there is before it waits, and asks for notifications then.
	go d.loop(d.done)
	return nil
}

// Reset implements [virtio.Device]: all connections end with ECONNRESET. Those
// who listen keep doing so.
func (d *Device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		return nil
	}
	done := d.done
	d.stopping = true
	d.poll.wake()
	d.mu.Unlock()
	<-done
	d.mu.Lock()
	d.live = false
	d.drop()
	d.rx = rxQueue{}
	d.tx = txQueue{}
	d.iov, d.out, d.vec = nil, gathered{}, nil // nothing points into RAM that may go away
	d.ev, d.evChain, d.irq, d.done, d.resetDue = nil, queue.Chain{}, nil, nil, false
	return nil
}

// drop ends all connections without a word to the guest, sockets included.
func (d *Device) drop() {
	for _, c := range d.conns {
		d.kill(c, errReset, false)
	}
	for _, l := range d.listeners {
		d.rejectAll(l)
	}
	// Some are in nobody's table but still drain into their sockets.
	for i := range d.slots.all {
		if c := d.slots.all[i].conn; c != nil {
			d.unsplice(c, errReset)
		}
	}
	d.run = runList{}
	d.strays.first, d.strays.n = 0, 0
}

// Close stops the device for good: connections and listeners end, and the
// doorbells are closed, which the hypervisor must have let go of. Closing twice
// is harmless.
func (d *Device) Close() error {
	err := d.Reset()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.drop()
	for _, l := range d.listeners {
		d.unlisten(l)
	}
	return errors.Join(err, d.poll.close())
}

// ResetConnections tells the guest that all its connections are gone, as after a
// restore of the VM (§5.10.6.7), and ends them here with ECONNRESET. If the guest
// has no event buffer ready, it hears of it as soon as it has.
func (d *Device) ResetConnections() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop()
	if d.live {
		d.resetDue = true
		d.poll.wake()
	}
}

// fail gives the device up until the driver resets it.
func (d *Device) fail(err error) {
	if !d.live {
		return
	}
	d.live = false
	d.drop()
	d.irq.NeedsReset(err)
}

// loop serves the queues and the spliced sockets of one activation.
func (d *Device) loop(done chan struct{}) {
	defer close(done)
	for block := false; ; {
		ready, err := d.poll.wait(block)
		d.mu.Lock()
		if d.stopping {
			d.mu.Unlock()
			return
		}
		if err != nil {
			d.fail(fmt.Errorf("vsock: wait for the guest: %w", err))
			d.mu.Unlock()
			return
		}
		for _, r := range ready {
			if c := d.slots.find(r.token); c != nil {
				d.socketReady(c, r)
			}
		}
		block = !d.serve()
		d.mu.Unlock()
	}
}

// serve does what there is to do, once round. It returns true if there is more.
func (d *Device) serve() (more bool) {
	if !d.live {
		return false
	}
	// The guest's packets first: they carry the credit that lets us send.
	more = d.serveTX()
	if d.serveRX(rounds) {
		more = true
	}
	if d.live && d.resetDue {
		d.serveEvent()
	}
	if d.live {
		// Back to back, so that one turn of the driver's handler can do for both.
		d.interrupt(queueRX, d.rx.q)
		d.interrupt(queueTX, d.tx.q)
	}
	return more && d.live
}

// pump is serve for those who have just given a connection something to send.
func (d *Device) pump() {
	if !d.live {
		return
	}
	if d.serveRX(rounds) {
		d.poll.wake()
	}
	if d.live {
		d.interrupt(queueRX, d.rx.q)
	}
}

// serveEvent sends VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (§5.10.6.7).
func (d *Device) serveEvent() {
	if d.ev == nil {
		d.resetDue = false
		return
	}
	for range 2 * int(d.ev.Size()) {
		ok, err := d.ev.Pop(&d.evChain)
		if err == nil && !ok {
			var more bool
			if more, err = d.ev.EnableNotify(); err == nil {
				if more {
					continue
				}
				return
			}
		}
		if err != nil {
			d.fail(err)
			return
		}
		var id [4]byte
		binary.LittleEndian.PutUint32(id[:], 0)
		n := queue.Scatter(d.evChain.Writable, id[:])
		if err := d.ev.Push(d.evChain.Head, uint32(n)); err != nil {
			d.fail(err)
			return
		}
		if n == len(id) {
			d.resetDue = false
			d.interrupt(queueEvent, d.ev)
			return
		}
		d.count.malformed.Add(1)
	}
	d.poll.wake() // another turn for a driver that adds useless buffers all the time
}
