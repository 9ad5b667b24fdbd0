package net

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// cause is why a frame of the guest was dropped.
type cause int

const (
	fine cause = iota
	malformed
	short
	long
	badHeader
	wrongMAC
	vlan
	causes // number of causes
)

var causeTexts = [causes]string{
	malformed: "its buffers hold no frame",
	short:     "it is shorter than an Ethernet header",
	long:      "it is longer than allowed",
	badHeader: "its header asks for what was not agreed, or points out of the frame",
	wrongMAC:  "its source is not the guest's own address",
	vlan:      "it has a VLAN tag",
}

const ( // IEEE 802.1Q: what the type of a tagged frame may be
	typeCTag = 0x8100
	typeSTag = 0x88a8
)

const (
	udpHeader      = 8
	udpCsumOffset  = 6
	tcpHeader      = 20 // at least
	tcpCsumOffset  = 16
	maxUDPSegments = 128 // datagrams in one frame; Linux makes no more

	batch = 32 // frames that may share one interrupt
)

// sendq is the queue from the guest, the worker's own.
type sendq struct {
	q     *queue.Queue // nil while there is none
	chain queue.Chain
	wire  wireHeader
	eth   [ethSize]byte
	head  Header
	vec   [][]byte // the frame handed to the host
}

// take hands one chain's frame to the host, or drops it. It returns the size of
// the frame.
func (p *pair) take(c *queue.Chain) (int, cause) {
	t := &p.tx
	n := c.ReadableLen() - headerSize
	if n < 0 || len(c.Writable) > 0 {
		return 0, malformed
	}
	// How descriptors divide header and frame says nothing (§2.7.4).
	queue.Gather(t.wire[:], c.Readable)
	t.wire.decode(&t.head)
	switch {
	case n < ethSize:
		return n, short
	case n > maxGSO || t.head.GSOType == GSONone && n > p.dev.maxFrame:
		return n, long // §5.1.6.2.1
	case !p.dev.judge(&t.head, n):
		return n, badHeader
	}
	rest := queue.Skip(c.Readable, headerSize)
	queue.Gather(t.eth[:], rest)
	if [6]byte(t.eth[6:12]) != p.dev.cfg.MAC {
		return n, wrongMAC
	}
	if typ := binary.BigEndian.Uint16(t.eth[12:]); typ == typeCTag || typ == typeSTag {
		return n, vlan
	}
	// The host gets the Ethernet header that was judged, not what the guest may
	// have made of it since.
	t.vec = append(append(t.vec[:0], t.eth[:]), queue.Skip(rest, ethSize)...)
	p.dev.cfg.Host.Receive(p.index, &t.head, t.vec)
	p.count.fromGuest.Add(1)
	p.count.fromGuestBytes.Add(uint64(n))
	return n, fine
}

// judge checks and cleans the header of a frame of n bytes (§5.1.6.2.1). What it
// lets pass asks for nothing that was not agreed, and points into the frame.
func (d *Device) judge(h *Header, n int) bool {
	h.Flags &= NeedsCsum                     // §5.1.6.2.2: others are ignored
	h.HdrLen = uint16(min(int(h.HdrLen), n)) // a hint, which may be wrong
	if h.Flags == 0 {
		h.CsumStart, h.CsumOffset = 0, 0
	} else {
		start := int(h.CsumStart)
		if !d.fromGuest.Has(OffloadCsum) || start < ethSize || start+int(h.CsumOffset)+2 > n {
			return false
		}
	}
	if h.GSOType == GSONone {
		h.GSOSize = 0
		return true
	}
	o, known := segments(h.GSOType)
	if !known || !d.fromGuest.Has(o) || h.GSOSize == 0 || h.Flags == 0 {
		return false // a checksum is always left over with segments (§5.1.6.2.1)
	}
	payload := n - int(h.CsumStart)
	if o == OffloadUSO {
		payload -= udpHeader
		return h.CsumOffset == udpCsumOffset && payload >= 0 && payload <= maxUDPSegments*int(h.GSOSize)
	}
	return h.CsumOffset == tcpCsumOffset && payload >= tcpHeader
}

// serveTX takes what the guest sent, one ring of frames at most. It returns true
// if there is more.
func (p *pair) serveTX() (more bool, err error) {
	t := &p.tx
	if t.q == nil {
		return false, nil
	}
	t.q.DisableNotify()
	defer p.signal(t.q, queueTX(p.index))
	for left := int(t.q.Size()); left > 0; left-- {
		if left%batch == 0 {
			p.signal(t.q, queueTX(p.index)) // a driver whose ring is full can go on while we do
		}
		if p.dev.stop.Load() {
			return false, nil
		}
		ok, err := t.q.Pop(&t.chain)
		if err != nil {
			return false, err
		}
		if !ok {
			return t.q.EnableNotify()
		}
		head := t.chain.Head
		if n, why := p.take(&t.chain); why != fine {
			p.count.drops[why].Add(1)
			p.dev.limit.Log(p.dev.cfg.Log, "net: a frame of %d bytes from the guest was dropped: %s", n, causeTexts[why])
		}
		if err := t.q.Push(head, 0); err != nil {
			return false, err
		}
	}
	return true, nil
}

// signal tells the driver what is done, if it wants to know.
func (p *pair) signal(q *queue.Queue, index int) {
	if q.NeedInterrupt() {
		p.dev.irq.Used(index)
	}
}
