package vsock

import (
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// txQueue is the queue from the guest.
type txQueue struct {
	q     *queue.Queue // nil while there is none
	chain queue.Chain
}

// serveTX takes what the guest sent, one ring of packets at most. It returns true
// if there is more.
func (d *Device) serveTX() (more bool) {
	q := d.tx.q
	if q == nil || !d.live {
		return false
	}
	q.DisableNotify()
	more, err := d.takePackets(q)
	if err == nil {
		err = d.sendGathered()
	}
	if err != nil {
		d.fail(err)
		return false
	}
	return more
}

func (d *Device) takePackets(q *queue.Queue) (more bool, err error) {
	for left := int(q.Size()); left > 0; left-- {
		ok, err := q.Pop(&d.tx.chain)
		if err != nil {
			return false, err
		}
		if !ok {
			// The guest gets its buffers back before it is asked to notify: it may wait for them.
			if err := d.sendGathered(); err != nil {
				return false, err
			}
			return q.EnableNotify()
		}
		if err := d.packet(&d.tx.chain); err != nil {
			return false, err
		}
		d.out.heads = append(d.out.heads, d.tx.chain.Head)
		if d.out.n >= maxGathered || len(d.out.iov) >= vectors || d.out.c == nil {
			if err := d.sendGathered(); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// maxGathered is how many bytes are enough for one system call.
const maxGathered = 256 << 10

// packet takes one packet of the guest.
func (d *Device) packet(c *queue.Chain) error {
	var h header
	if queue.Gather(h[:], c.Readable) < headerSize {
		d.count.malformed.Add(1)
		return nil
	}
	c.Readable = queue.Skip(c.Readable, headerSize)
	n := int(h.len())
	whole := n <= c.ReadableLen()
	if whole {
		c.Readable = queue.Prefix(c.Readable, n)
	}
	if h.op() != opData {
		n = 0 // control packets have no payload; Linux ignores it too
	}
	if d.out.c != nil && (d.out.c.guestPort != h.srcPort() || d.out.c.hostPort != h.dstPort() || h.op() != opData) {
		// What follows may end the connection, or belongs to another one.
		if err := d.sendGathered(); err != nil {
			return err
		}
	}
	d.receive(&h, c.Readable, n, whole)
	return nil
}

// receive judges a packet with n bytes of payload, or with fewer than its header
// says if it is not whole.
func (d *Device) receive(h *header, payload [][]byte, n int, whole bool) {
	if h.srcCID() != d.cfg.GuestCID || h.dstCID() != HostCID || h.typ() != typeStream {
		// §5.10.6.4: unknown types get a reset; the others claim to be somebody else, or want to.
		d.count.malformed.Add(1)
		d.refuse(h)
		return
	}
	c := d.conns[portKey(h.dstPort(), h.srcPort())]
	if c == nil {
		switch {
		case h.op() == opReset:
		case h.op() == opRequest && whole:
			d.request(h)
		default:
			d.refuse(h)
		}
		return
	}
	if !whole {
		// Bytes are missing, so the stream is broken.
		d.count.malformed.Add(1)
		d.kill(c, errReset, true)
		return
	}
	d.took(c, c.ep.receive(h), payload, n)
}

// took acts on what a packet meant for c.
func (d *Device) took(c *Conn, got outcome, payload [][]byte, n int) {
	switch {
	case got&gotBreach != 0:
		d.count.malformed.Add(1)
		d.kill(c, errReset, true)
		return
	case got&gotReset != 0:
		d.count.resetsReceived.Add(1)
		err := errReset
		if !c.answered {
			err = errRefused
		}
		d.kill(c, err, false)
		return
	case got&gotFinished != 0:
		d.kill(c, nil, true)
		return
	case got&gotOpened != 0:
		c.answered = true
		poke(c.rwake)
	case got&gotDiscard != 0:
		d.count.bytesReceived.Add(uint64(n))
		c.ep.passedOn(n)
	case got&gotData != 0:
		d.count.bytesReceived.Add(uint64(n))
		d.deliver(c, payload, n)
	}
	if got&gotShutdown != 0 {
		c.wakeAll()
		d.settle(c)
	}
	d.schedule(c)
}

// deliver hands payload to whoever reads c, or holds it for them.
func (d *Device) deliver(c *Conn, payload [][]byte, n int) {
	if n == 0 {
		return
	}
	if c.sock != nil {
		d.gather(c, payload, n)
		return
	}
	if c.rbuf != nil && c.in.empty() {
		m := queue.Gather(c.rbuf, payload)
		c.rgot, c.rbuf = m, nil
		c.ep.passedOn(m)
		n -= m
		payload = queue.Skip(payload, m)
	}
	if n > 0 {
		d.hold(c, payload, n)
	}
	poke(c.rwake)
}

// refuse answers a packet that belongs to no connection with a reset.
func (d *Device) refuse(h *header) {
	if h.op() == opReset {
		return // resets are never answered
	}
	d.reset(stray{h.dstCID(), h.dstPort(), h.srcPort(), h.typ()})
}

func (d *Device) reset(s stray) {
	if !d.live || !d.strays.push(s) {
		d.count.resetsDropped.Add(1)
	}
}

// request takes the guest's wish to connect to a port of ours.
func (d *Device) request(h *header) {
	l := d.listeners[h.dstPort()]
	if l == nil || len(l.backlog) == cap(l.backlog) || d.open >= d.cfg.MaxConns {
		d.count.refused.Add(1)
		d.refuse(h)
		return
	}
	c := d.newConn(h.dstPort(), h.srcPort())
	c.ep.accept(uint32(d.cfg.Buffer), h)
	c.answered = true
	l.backlog <- c // never blocks: the lock is held by all who send
	d.schedule(c)
}
