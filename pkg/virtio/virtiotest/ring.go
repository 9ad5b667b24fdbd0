package virtiotest

import (
	"encoding/binary"
	"fmt"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const ( // §2.7.5: flags of a descriptor
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

// Desc is struct virtq_desc (§2.7.5), for tests that write descriptors by hand.
type Desc struct {
	Addr  guestmem.GPA
	Len   uint32
	Flags uint16
	Next  uint16
}

// Buf is one buffer of a well-formed chain.
type Buf struct {
	Addr  guestmem.GPA
	Len   uint32
	Write bool // for the device to write
}

// Used is one element of the used ring (§2.7.8).
type Used struct {
	Head uint16
	Len  uint32
}

// Ring is the driver's side of a split virtqueue (§2.7). The upper methods keep
// to the specification; those named Set write whatever a hostile driver likes.
// It belongs to one goroutine.
type Ring struct {
	Size              uint16
	Desc, Avail, Used guestmem.GPA
	EventIdx          bool // agreed on VIRTIO_F_EVENT_IDX

	desc, availRing, usedRing       []byte
	availFlags, availIdx, usedEvent guestmem.Cell16
	usedFlags, usedIdx, availEvent  guestmem.Cell16

	next     []uint16 // own copy of how free descriptors and chains in flight are linked
	last     []uint16 // last descriptor of the chain in flight with that head
	count    []uint16 // descriptors of the chain in flight with that head; 0: none
	free     uint16   // first free descriptor
	nfree    uint16
	avail    uint16 // our avail.idx
	kicked   uint16 // avail.idx at the last NeedKick
	lastUsed uint16 // elements reaped
}

// RingBytes is how much memory a ring of this size takes, from an address
// aligned to 16: descriptor table, available ring and used ring in this order.
func RingBytes(size uint16) int { return int(size)*(16+2+8) + 6 + 6 + 4 }

// NewRing lays out an empty ring in RAM at an address aligned to 16.
func NewRing(mem *guestmem.Memory, at guestmem.GPA, size uint16) (*Ring, error) {
	n := guestmem.GPA(size)
	r := &Ring{Size: size, Desc: at, Avail: at + 16*n}
	r.Used = (r.Avail + 6 + 2*n + 3) &^ 3
	all, err := mem.Slice(at, RingBytes(size))
	if err != nil {
		return nil, fmt.Errorf("virtiotest: ring of %d: %w", size, err)
	}
	clear(all)
	r.desc = all[:16*n]
	r.availRing = all[r.Avail+4-at:][:2*n]
	r.usedRing = all[r.Used+4-at:][:8*n]
	for _, c := range []struct {
		cell *guestmem.Cell16
		at   guestmem.GPA
	}{
		{&r.availFlags, r.Avail}, {&r.availIdx, r.Avail + 2}, {&r.usedEvent, r.Avail + 4 + 2*n},
		{&r.usedFlags, r.Used}, {&r.usedIdx, r.Used + 2}, {&r.availEvent, r.Used + 4 + 8*n},
	} {
		if *c.cell, err = mem.Cell16(c.at); err != nil {
			return nil, fmt.Errorf("virtiotest: ring of %d: %w", size, err)
		}
	}
	r.next, r.last, r.count = make([]uint16, n), make([]uint16, n), make([]uint16, n)
	for i := range r.next {
		r.next[i] = uint16(i + 1)
	}
	r.nfree = size
	return r, nil
}

// Config is what package queue wants to know of this ring.
func (r *Ring) Config() queue.Config {
	return queue.Config{Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used, EventIdx: r.EventIdx, Indirect: true}
}

// SetDesc writes descriptor i as it is.
func (r *Ring) SetDesc(i uint16, d Desc) { putDesc(r.desc[16*int(i):], d) }

func putDesc(p []byte, d Desc) {
	binary.LittleEndian.PutUint64(p[0:], uint64(d.Addr))
	binary.LittleEndian.PutUint32(p[8:], d.Len)
	binary.LittleEndian.PutUint16(p[12:], d.Flags)
	binary.LittleEndian.PutUint16(p[14:], d.Next)
}

// SetAvail writes entry slot of the available ring as it is.
func (r *Ring) SetAvail(slot, head uint16) {
	binary.LittleEndian.PutUint16(r.availRing[2*int(slot%r.Size):], head)
}

// SetAvailIdx writes avail.idx as it is.
func (r *Ring) SetAvailIdx(v uint16) { r.avail = v; r.availIdx.Store(v) }

// SetUsedEvent writes used_event as it is (§2.7.7).
func (r *Ring) SetUsedEvent(v uint16) { r.usedEvent.Store(v) }

// AvailEvent reads what the device asked for (§2.7.10).
func (r *Ring) AvailEvent() uint16 { return r.availEvent.Load() }

// AvailIdx is the number of chains submitted, modulo 2^16.
func (r *Ring) AvailIdx() uint16 { return r.avail }

// Submit makes a chain available, whatever its descriptors say (§2.7.13).
func (r *Ring) Submit(head uint16) {
	r.SetAvail(r.avail, head)
	r.avail++
	r.availIdx.Store(r.avail)
}

// Free is the number of descriptors that Add may still use.
func (r *Ring) Free() int { return int(r.nfree) }

// Add makes a chain of direct descriptors available and returns its head. There
// must be at least one buffer and as many descriptors free.
func (r *Ring) Add(bufs ...Buf) uint16 {
	if len(bufs) == 0 || len(bufs) > int(r.nfree) {
		panic(fmt.Sprintf("virtiotest: chain of %d with %d descriptors free", len(bufs), r.nfree))
	}
	head, i := r.free, r.free
	for n, b := range bufs {
		d := bufDesc(b)
		r.last[head] = i
		if n+1 < len(bufs) {
			d.Flags |= DescNext
			d.Next = r.next[i]
		}
		r.SetDesc(i, d)
		i = r.next[i]
	}
	r.take(head, uint16(len(bufs)))
	return head
}

// AddIndirect does the same through an indirect table (§2.7.5.3), which takes 16
// bytes a buffer at table.
func (r *Ring) AddIndirect(mem *guestmem.Memory, table guestmem.GPA, bufs ...Buf) uint16 {
	if r.nfree == 0 {
		panic("virtiotest: no descriptor free")
	}
	t, err := mem.Slice(table, 16*len(bufs))
	if err != nil {
		panic(err)
	}
	for n, b := range bufs {
		d := bufDesc(b)
		if n+1 < len(bufs) {
			d.Flags |= DescNext
			d.Next = uint16(n + 1)
		}
		putDesc(t[16*n:], d)
	}
	head := r.free
	r.last[head] = head
	r.SetDesc(head, Desc{Addr: table, Len: uint32(len(t)), Flags: DescIndirect})
	r.take(head, 1)
	return head
}

func bufDesc(b Buf) Desc {
	d := Desc{Addr: b.Addr, Len: b.Len}
	if b.Write {
		d.Flags = DescWrite
	}
	return d
}

// take moves n linked descriptors from the free list and submits them.
func (r *Ring) take(head, n uint16) {
	r.free = r.next[r.last[head]]
	r.nfree -= n
	r.count[head] = n
	r.Submit(head)
}

// NeedKick reports whether the device wants to be notified of what was submitted
// since the last call (§2.7.10.1).
func (r *Ring) NeedKick() bool {
	old := r.kicked
	r.kicked = r.avail
	guestmem.Fence()
	if !r.EventIdx {
		return r.usedFlags.Load() == 0
	}
	return r.avail-r.availEvent.Load()-1 < r.avail-old
}

// Reap returns the next used element, if there is one.
func (r *Ring) Reap() (Used, bool) {
	if r.usedIdx.Load() == r.lastUsed {
		return Used{}, false
	}
	e := r.usedRing[8*int(r.lastUsed%r.Size):]
	id := binary.LittleEndian.Uint32(e)
	u := Used{uint16(id), binary.LittleEndian.Uint32(e[4:])}
	r.lastUsed++
	if id < uint32(r.Size) && r.count[id] > 0 {
		r.next[r.last[id]] = r.free
		r.free = u.Head
		r.nfree += r.count[id]
		r.count[id] = 0
	}
	return u, true
}

// WantInterrupt asks for an interrupt at the next used element (§2.7.7.1), and
// reports whether there is one already, for which there may be none.
func (r *Ring) WantInterrupt() bool {
	r.usedEvent.Store(r.lastUsed)
	r.availFlags.Store(0)
	guestmem.Fence()
	return r.usedIdx.Load() != r.lastUsed
}

// RefuseInterrupts asks for none, as far as that is possible.
func (r *Ring) RefuseInterrupts() {
	if r.EventIdx {
		r.usedEvent.Store(r.lastUsed - 1)
		return
	}
	r.availFlags.Store(1)
}
