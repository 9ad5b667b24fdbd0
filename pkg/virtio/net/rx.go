package net

import (
	"sync"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Status says what became of a frame for the guest.
type Status int

const (
	// Sent says that the frame is in the guest's buffers.
	Sent Status = iota
	// Full says that the guest has no buffers for it now. The host keeps the
	// frame; Host.Ready will be called when there may be.
	Full
	// Down says that the frame is lost: no driver listens on the pair, or it
	// cannot take such a frame.
	Down
)

const (
	// maxMerged is how many buffers a frame may be spread over (§5.1.6.4). Linux's
	// are 1.5 KiB at least, so that 43 hold the largest.
	maxMerged = 64
	// maxPieces is how many descriptors of a buffer are used. Linux's have 19 at most.
	maxPieces = 64
	// minSingle is the smallest buffer of use where frames are not spread.
	minSingle = headerSize + ethSize
)

// rxBuf is one buffer that the driver gave for frames.
type rxBuf struct {
	head uint16
	segs [][]byte // guest RAM
	room int      // bytes in segs
}

// receiveq is the queue to the guest. Whoever sends works it.
type receiveq struct {
	mu sync.Mutex // guards what follows; nobody blocks while holding it

	q        *queue.Queue // nil while there is none
	irq      virtio.Interrupter
	merge    bool     // frames may be spread over buffers
	offloads Offloads // that the driver can take now
	active   bool     // the driver listens (§5.1.6.5.5)
	waiting  bool     // the host is to hear of new buffers
	fresh    bool     // there is news already

	chain queue.Chain
	wire  wireHeader
	done  [maxMerged]queue.Used

	// Buffers taken from the queue for a frame that needs more of them. A ring.
	held  [maxMerged]rxBuf
	first int
	n     int
	room  int // bytes in all of them
}

// Send puts one frame, which the pieces v make up from the Ethernet header on,
// into the guest's receive ring of pair q. It copies it once, and interrupts the
// guest only if it returns [Full]: call [Device.Flush] after a burst. H must ask
// for nothing that is not in [Device.Offloads]. It never blocks on the guest,
// allocates nothing, and any goroutine may call it, those that are in a method of
// [Host] included. After Full, Host.Ready may be called before Send has returned.
func (d *Device) Send(q int, h *Header, v [][]byte) Status {
	if q < 0 || q >= len(d.pairs) {
		return Down
	}
	p := d.pairs[q]
	n := queue.Len(v)
	r := &p.rx
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil || !r.active || d.stop.Load() {
		return Down
	}
	if !d.sendable(r, h, n) {
		p.count.refused.Add(1)
		return Down
	}
	buffers, st, err := p.gather(headerSize + n)
	if err != nil {
		r.q = nil
		d.fail(r.irq, err)
		return Down
	}
	if st != Sent {
		return st
	}
	r.store(h, v, headerSize+n, buffers)
	p.count.toGuest.Add(1)
	p.count.toGuestBytes.Add(uint64(n))
	return Sent
}

// sendable reports whether the driver agreed to such a frame (§5.1.6.4.1).
func (d *Device) sendable(r *receiveq, h *Header, n int) bool {
	if n < ethSize || n > maxGSO || h.GSOType == GSONone && n > d.maxFrame {
		return false
	}
	o, known := segments(h.GSOType)
	if h.Flags&NeedsCsum != 0 {
		o |= OffloadCsum
		if int(h.CsumStart)+int(h.CsumOffset)+2 > n {
			return false
		}
	}
	return known && r.offloads.Has(o) && (h.GSOType == GSONone || h.GSOSize > 0 && h.Flags&NeedsCsum != 0)
}

// gather takes buffers for so many bytes, and returns how many that took.
// Preconditions: rx.mu.
func (p *pair) gather(need int) (buffers int, st Status, err error) {
	r := &p.rx
	most := 1
	if r.merge {
		most = maxMerged
	}
	tries := int(r.q.Size()) + 1 // all that a driver can have added before, and a look at what follows
	for r.n < most && r.room < need {
		if tries--; tries < 0 {
			// A driver that keeps adding useless buffers. It gets another turn later.
			r.waiting, r.fresh = true, true
			p.bell.Ring()
			return 0, p.full(), nil
		}
		ok, err := r.q.Pop(&r.chain)
		if err != nil {
			return 0, Down, err
		}
		if ok {
			if err := p.hold(); err != nil {
				return 0, Down, err
			}
			continue
		}
		if r.n > 0 && r.q.InFlight() == int(r.q.Size()) {
			break // the driver has no more to give
		}
		more, err := r.q.EnableNotify()
		if err != nil {
			return 0, Down, err
		}
		if !more {
			r.waiting = true
			return 0, p.full(), nil
		}
		r.q.DisableNotify()
	}
	room := 0
	for i := range r.n {
		if room += r.at(i).room; room >= need {
			return i + 1, Sent, nil
		}
	}
	return 0, Down, p.discard()
}

// discard gives back the buffers at hand, which cannot hold a frame, so that a
// driver that gives better ones later gets the frames after it. Preconditions: rx.mu.
func (p *pair) discard() error {
	r := &p.rx
	p.count.noRoom.Add(1)
	for i := range r.n {
		r.done[i] = queue.Used{Head: r.at(i).head}
	}
	err := r.q.PushAll(r.done[:r.n])
	r.n, r.room = 0, 0
	p.interrupt()
	return err
}

// full is the end of a Send that found no buffers. The driver must hear of the
// frames before, or it may wait for them before it gives more.
func (p *pair) full() Status {
	p.count.full.Add(1)
	p.interrupt()
	return Full
}

// at returns the i-th buffer at hand.
func (r *receiveq) at(i int) *rxBuf { return &r.held[(r.first+i)%maxMerged] }

// hold keeps the buffer in r.chain for use, or gives it back if it is of none.
func (p *pair) hold() error {
	r := &p.rx
	segs := r.chain.Writable[:min(len(r.chain.Writable), maxPieces)]
	room := queue.Len(segs)
	least := minSingle
	if r.merge {
		least = headerSize // §5.1.6.3.1
	}
	if room < least {
		p.count.badBuffers.Add(1)
		return r.q.Push(r.chain.Head, 0)
	}
	r.fresh = r.waiting
	b := r.at(r.n)
	b.head, b.room = r.chain.Head, room
	b.segs = append(b.segs[:0], segs...)
	r.n++
	r.room += room
	return nil
}

// store copies a frame, size bytes with its header, into the first buffers at
// hand, and gives them to the driver. Preconditions: mu.
func (r *receiveq) store(h *Header, v [][]byte, size, buffers int) {
	clean := *h
	if !r.offloads.Has(OffloadCsum) {
		clean.Flags = 0 // §5.1.6.4.1: no DATA_VALID either
	}
	r.wire.encode(&clean, buffers)
	src := r.wire[:]
	for i := range buffers {
		b := r.at(0)
		n := min(b.room, size)
		r.done[i] = queue.Used{Head: b.head, Written: uint32(n)}
		size -= n
		for _, dst := range b.segs {
			dst = dst[:min(len(dst), n)]
			n -= len(dst)
			for len(dst) > 0 {
				if len(src) == 0 {
					src, v = v[0], v[1:]
					continue
				}
				k := copy(dst, src)
				dst, src = dst[k:], src[k:]
			}
		}
		r.room -= b.room
		r.first = (r.first + 1) % maxMerged
		r.n--
	}
	// Together, so that the driver does not miss the later ones (§5.1.6.4.1).
	// Popped heads can be pushed; a queue that broke meanwhile ignores it.
	_ = r.q.PushAll(r.done[:buffers])
}

// Flush interrupts the guest for what was sent on pair q since the last Flush, if
// its driver wants that. Any goroutine may call it.
func (d *Device) Flush(q int) {
	if q < 0 || q >= len(d.pairs) {
		return
	}
	p := d.pairs[q]
	p.rx.mu.Lock()
	defer p.rx.mu.Unlock()
	p.interrupt()
}

// interrupt is Flush. Preconditions: rx.mu.
func (p *pair) interrupt() {
	if r := &p.rx; r.q != nil && r.q.NeedInterrupt() {
		r.irq.Used(queueRX(p.index))
	}
}

// serveRX calls the host if it waits for buffers and there are some.
func (p *pair) serveRX() error {
	news, err := p.rx.news()
	if err != nil {
		return err
	}
	if news {
		p.dev.cfg.Host.Ready(p.index)
	}
	return nil
}

// news reports whether the host is to be told of buffers.
func (r *receiveq) news() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil || !r.active || !r.waiting {
		return false, nil
	}
	if !r.fresh {
		if more, err := r.q.EnableNotify(); !more {
			return false, err
		}
	}
	r.q.DisableNotify()
	r.waiting, r.fresh = false, false
	return true, nil
}

// start opens the queue to the guest. Preconditions: the worker does not run.
func (r *receiveq) start(q *queue.Queue, irq virtio.Interrupter, merge bool, o Offloads, active bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q, r.irq, r.merge, r.offloads, r.active = q, irq, merge, o, active
	r.waiting, r.fresh = true, true // for the first call of Ready
	if q != nil {
		q.DisableNotify()
	}
}

// stop closes it. When it returns, nobody sends.
func (r *receiveq) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.q, r.irq, r.active, r.waiting, r.fresh = nil, nil, false, false, false
	r.first, r.n, r.room = 0, 0, 0
	r.chain = queue.Chain{}
	clear(r.held[:]) // nothing points into RAM that may go away
}
