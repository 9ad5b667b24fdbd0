package vsock

import (
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	// batch is how many of the guest's buffers one read from a socket may fill,
	// and how many the device holds ready. Linux posts one page each.
	batch = 64
	// rounds is how many turns connections get before the loop looks at the
	// other queue and at its sockets again.
	rounds = 64
)

// rxBuf is one buffer that the driver gave for a packet.
type rxBuf struct {
	head uint16
	segs [][]byte // guest RAM
	room int      // bytes in segs, headerSize at least
}

// rxQueue is the queue to the guest, with buffers taken from it ahead of use. A
// socket can then be read before it is known how many buffers that takes.
type rxQueue struct {
	q     *queue.Queue // nil while there is none
	chain queue.Chain
	bufs  [batch]rxBuf // ring
	first int
	n     int
	armed bool // the driver was asked to notify
}

// at returns the i-th buffer at hand.
func (r *rxQueue) at(i int) *rxBuf { return &r.bufs[(r.first+i)%batch] }

// fill takes as many buffers as it can hold, or as there are.
func (d *Device) fill() error {
	r := &d.rx
	for tries := 0; r.n < batch && tries < 4*batch; tries++ {
		ok, err := r.q.Pop(&r.chain)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		room := r.chain.WritableLen()
		if room < headerSize {
			// No packet fits. Linux drops it too when it gets it back empty.
			d.count.malformed.Add(1)
			if err := r.q.Push(r.chain.Head, 0); err != nil {
				return err
			}
			continue
		}
		b := r.at(r.n)
		b.head, b.room = r.chain.Head, room
		b.segs = append(b.segs[:0], r.chain.Writable...)
		r.n++
	}
	return nil
}

// ready reports whether a packet can be sent now. If not, the driver will notify
// when it can, and the loop calls again.
func (d *Device) ready() bool {
	r := &d.rx
	if !d.live || r.q == nil {
		return false
	}
	if r.n > 0 {
		return true
	}
	if r.armed {
		r.armed = false
		r.q.DisableNotify()
	}
	for range 2 {
		if err := d.fill(); err != nil {
			d.fail(err)
			return false
		}
		if r.n > 0 {
			return true
		}
		more, err := r.q.EnableNotify()
		if err != nil {
			d.fail(err)
			return false
		}
		if !more {
			r.armed = true
			return false
		}
		r.q.DisableNotify()
	}
	// The driver keeps adding buffers that hold no packet. It gets another turn
	// after everybody else had one.
	d.poll.wake()
	return false
}

// put finishes the first buffer at hand: header h before n bytes of payload that
// are in place.
func (d *Device) put(h *header, n int) {
	b := d.rx.at(0)
	if first := b.segs[0]; len(first) >= headerSize {
		copy(first, h[:])
	} else {
		queue.Scatter(b.segs, h[:])
	}
	d.rx.first = (d.rx.first + 1) % batch
	d.rx.n--
	// A popped head can be pushed; a queue that broke meanwhile ignores it.
	_ = d.rx.q.Push(b.head, uint32(headerSize+n))
}

// afterHeader appends to v what follows the header in b, limit bytes at most.
func (b *rxBuf) afterHeader(v [][]byte, limit int) ([][]byte, int) {
	skip, total := headerSize, 0
	for _, s := range b.segs {
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		if len(s) > limit-total {
			s = s[:limit-total]
		}
		if len(s) == 0 {
			break
		}
		v = append(v, s)
		total += len(s)
	}
	return v, total
}

// header prepares the header of a packet of c.
func (d *Device) header(h *header, c *Conn, o op, flags, n uint32) {
	h.setAddrs(HostCID, d.cfg.GuestCID, c.hostPort, c.guestPort)
	h.setOp(typeStream, o, flags, n)
	c.ep.stamp(h)
}

// serveRX gives connections turns to send until all are done, the guest has no
// buffers, or n turns are over; then it returns true.
func (d *Device) serveRX(n int) (more bool) {
	for ; n > 0; n-- {
		c := d.run.first
		if c == nil && d.strays.n == 0 {
			return false
		}
		if !d.ready() {
			return false
		}
		var h header
		if s, ok := d.strays.pop(); ok {
			h.setAddrs(s.srcCID, d.cfg.GuestCID, s.hostPort, s.guestPort)
			h.setOp(s.typ, opReset, 0, 0)
			d.put(&h, 0)
			d.count.resetsSent.Add(1)
			continue
		}
		if o, flags, ok := c.ep.next(); ok {
			d.header(&h, c, o, flags, 0)
			d.put(&h, 0)
			continue
		}
		d.run.remove(c)
		if !c.mayFeed() {
			continue
		}
		d.feed(c)
		d.interrupt(queueRX, d.rx.q) // the guest may start on it while we go on
		d.schedule(c)
	}
	return d.run.first != nil || d.strays.n > 0
}

// feed sends as much data of c as one turn allows.
func (d *Device) feed(c *Conn) {
	if c.sock != nil {
		d.feedSocket(c)
		return
	}
	for len(c.wbuf) > 0 && d.rx.n > 0 {
		limit := min(len(c.wbuf), int(c.ep.window()))
		if limit == 0 {
			break
		}
		var n int
		d.iov, n = d.rx.at(0).afterHeader(d.iov[:0], limit)
		queue.Scatter(d.iov, c.wbuf[:n])
		c.wbuf = c.wbuf[n:]
		d.putData(c, n)
		if n == 0 {
			break // a buffer for a bare header: the packet is empty, and the next turn tries the next one
		}
	}
	if len(c.wbuf) == 0 {
		poke(c.wwake)
	}
}

// putData finishes the first buffer at hand as data of c.
func (d *Device) putData(c *Conn, n int) {
	var h header
	d.header(&h, c, opData, 0, uint32(n))
	d.put(&h, n)
	c.ep.txCnt += uint32(n)
	d.count.bytesSent.Add(uint64(n))
}

// interrupt tells the driver of used buffers if it wants to know.
func (d *Device) interrupt(i int, q *queue.Queue) {
	if q != nil && q.NeedInterrupt() {
		d.irq.Used(i)
	}
}

// runList is the connections that have something to send, each once, in turn.
type runList struct{ first, last *Conn }

func (l *runList) add(c *Conn) {
	if c.queued {
		return
	}
	c.queued, c.runPrev, c.runNext = true, l.last, nil
	if l.last != nil {
		l.last.runNext = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *runList) remove(c *Conn) {
	if !c.queued {
		return
	}
	if c.runPrev != nil {
		c.runPrev.runNext = c.runNext
	} else {
		l.first = c.runNext
	}
	if c.runNext != nil {
		c.runNext.runPrev = c.runPrev
	} else {
		l.last = c.runPrev
	}
	c.queued, c.runPrev, c.runNext = false, nil, nil
}

// schedule gives c a turn if it has anything to send.
func (d *Device) schedule(c *Conn) {
	if d.live && (c.ep.owes != 0 || c.mayFeed()) {
		d.run.add(c)
	}
}

// stray is a reset that belongs to no connection.
type stray struct {
	srcCID              uint64
	hostPort, guestPort uint32
	typ                 uint16
}

// maxStrays bounds the resets that wait for the guest to take them.
const maxStrays = 1024

// strays is the queue of them. Its memory comes with the first.
type strays struct {
	ring  []stray
	first int
	n     int
}

// push returns false when there are too many already.
func (s *strays) push(v stray) bool {
	if s.n == maxStrays {
		return false
	}
	if s.ring == nil {
		s.ring = make([]stray, maxStrays)
	}
	s.ring[(s.first+s.n)%maxStrays] = v
	s.n++
	return true
}

func (s *strays) pop() (v stray, ok bool) {
	if s.n == 0 {
		return v, false
	}
	v = s.ring[s.first]
	s.first = (s.first + 1) % maxStrays
	s.n--
	return v, true
}
