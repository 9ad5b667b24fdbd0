package net

import (
	"runtime"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// pair is one receive and one transmit queue, with a goroutine that serves what
// the guest sends, calls the host when the guest gave buffers, and, in one of the
// pairs, carries out control commands.
type pair struct {
	dev   *Device
	index int
	bell  *virtio.Doorbell // of both queues
	count counts
	rx    receiveq

	// Set by Activate, and the goroutine's own until it returns.
	tx   sendq
	ctrl controlq
}

func queueRX(pair int) int { return 2 * pair } // §5.1.2
func queueTX(pair int) int { return 2*pair + 1 }

func (p *pair) run() {
	defer p.dev.running.Done()
	// The thread waits in the doorbell anyway. Bound to it, the goroutine wakes
	// in half the time, because no other thread has to take it over.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var turn virtio.Turn
	for !p.dev.stop.Load() {
		more, err := p.serve()
		if err != nil {
			p.dev.fail(p.dev.irq, err)
			return
		}
		turn.Take()
		if !p.wait(!more) {
			return
		}
	}
}

// wait returns true when there may be something to do. With block it waits for that.
func (p *pair) wait(block bool) bool {
	if w := p.dev.waiter; w != nil {
		return w.Await(p.index, p.bell, block)
	}
	return !block || p.bell.Wait()
}

// serve does what there is to do, once round. It returns true if there is more.
func (p *pair) serve() (more bool, err error) {
	// Ready comes first: a host that is told of a driver knows it when its frames come.
	if err := p.serveRX(); err != nil {
		return false, err
	}
	more, err = p.serveTX()
	if err != nil {
		return false, err
	}
	moreCtrl, err := p.serveControl()
	return more || moreCtrl, err
}

// fail gives the device up until the driver resets it.
func (d *Device) fail(irq virtio.Interrupter, err error) {
	d.stop.Store(true)
	d.offloads.Store(0)
	d.listening.Store(0)
	irq.NeedsReset(err)
}

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	d.stop.Store(false)
	d.irq, d.features = a.IRQ, a.Features
	d.fromGuest = fromGuest(a.Features)
	o := toGuest(a.Features)
	d.offloads.Store(uint32(o))
	d.listening.Store(1)
	merge := a.Features.Has(featureMrgRxbuf)
	work := make([]bool, len(d.pairs)) // the pairs that have a queue
	mq := a.Features.Has(featureMQ | featureCtrlVQ)
	for i, p := range d.pairs {
		p.rx.stop()
		p.tx, p.ctrl = sendq{}, controlq{}
		if i == 0 || mq {
			p.rx.start(a.Queues[queueRX(i)], a.IRQ, merge, o, i == 0)
			p.tx.q = a.Queues[queueTX(i)]
			work[i] = a.Queues[queueRX(i)] != nil || p.tx.q != nil
		}
	}
	if a.Features.Has(featureCtrlVQ) {
		// Without MQ, the control queue follows the first pair (§5.1.2).
		at := queueRX(1)
		if mq {
			at = queueRX(len(d.pairs))
		}
		p := d.pairs[d.owner(at)]
		p.ctrl.q, p.ctrl.index = a.Queues[at], at
		work[p.index] = work[p.index] || p.ctrl.q != nil
	}
	for i, p := range d.pairs {
		if work[i] {
			d.running.Add(1)
			go p.run()
		}
	}
	return nil
}

// owner is the pair whose bell and goroutine belong to a queue.
func (d *Device) owner(q int) int {
	if q == queueRX(len(d.pairs)) {
		return 0
	}
	return q / 2
}

// Reset implements [virtio.Device]. It waits for the host to return from
// Receive and Ready.
func (d *Device) Reset() error {
	d.stop.Store(true)
	d.offloads.Store(0)
	d.listening.Store(0)
	for _, p := range d.pairs {
		p.rx.stop()
		p.bell.Ring()
	}
	d.running.Wait()
	for _, p := range d.pairs {
		p.tx, p.ctrl = sendq{}, controlq{}
	}
	return nil
}

// each calls f for the queue to the guest of every pair that there is, under its lock.
func (d *Device) each(f func(p *pair, q *queue.Queue)) {
	for _, p := range d.pairs {
		p.rx.mu.Lock()
		if p.rx.q != nil {
			f(p, p.rx.q)
		}
		p.rx.mu.Unlock()
	}
}
