package console

import (
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// port is one activation of the device: a goroutine that serves both queues.
type port struct {
	d      *Device
	rx, tx *queue.Queue // nil where the driver enabled none
	irq    virtio.Interrupter
	stop   <-chan struct{}
}

func (p *port) run(stopped chan<- struct{}) {
	defer close(stopped)
	for !p.ended() {
		if err := p.serve(); err != nil {
			p.irq.NeedsReset(err)
			return
		}
		if !p.d.bell.Wait() {
			return
		}
	}
}

func (p *port) ended() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

func (p *port) serve() error {
	if p.tx != nil {
		err := p.transmit()
		p.signal(p.tx, transmitq)
		if err != nil {
			return err
		}
	}
	return p.receiveNow()
}

func (p *port) signal(q *queue.Queue, index int) {
	if q.NeedInterrupt() {
		p.irq.Used(index)
	}
}

// transmit takes the guest's output until there is no more and the next will
// ring the bell (§5.3.6).
func (p *port) transmit() error {
	for {
		p.tx.DisableNotify()
		for n := 1; ; n++ {
			if p.ended() {
				return nil
			}
			c := &p.d.chain
			ok, err := p.tx.Pop(c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			p.output(c.Readable)
			if err := p.tx.Push(c.Head, 0); err != nil {
				return err
			}
			if n%queueSize == 0 { // a guest that never pauses is not kept waiting for input
				p.signal(p.tx, transmitq)
				if err := p.receiveNow(); err != nil {
					return err
				}
			}
		}
		if more, err := p.tx.EnableNotify(); !more {
			return err
		}
	}
}

// output keeps what a chain holds, but looks at no more of it than can be kept.
func (p *port) output(v [][]byte) {
	s := p.d.out
	if over := queue.Len(v) - len(s.ring); over > 0 {
		s.lose(over)
		v = queue.Skip(v, over)
	}
	for _, b := range v {
		s.put(b)
	}
}

func (p *port) receiveNow() error {
	if p.rx == nil {
		return nil
	}
	err := p.receive()
	p.signal(p.rx, receiveq)
	return err
}

// receive gives the guest input as long as there is some and room for it. Only
// then does the guest's next buffer matter, so only then does it ring the bell.
func (p *port) receive() error {
	for {
		p.rx.DisableNotify()
		for {
			if p.ended() || p.d.in.empty() {
				return nil
			}
			c := &p.d.chain
			ok, err := p.rx.Pop(c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if len(c.Writable) == 0 {
				return &virtio.DriverError{Dev: virtio.IDConsole, Section: "5.3.6.1", Detail: "receive buffer has no room"}
			}
			if err := p.rx.Push(c.Head, uint32(p.d.in.read(c.Writable))); err != nil {
				return err
			}
		}
		if more, err := p.rx.EnableNotify(); !more {
			return err
		}
	}
}
