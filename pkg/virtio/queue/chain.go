package queue

import (
	"encoding/binary"
	"math"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// Chain is one buffer of the driver: descriptors resolved to guest RAM. The
// slices alias memory that the guest may change at any time. They stay valid
// until the next Pop into the same Chain, and the device may reslice them.
//
// The zero value is ready; its first Pop allocates room for the longest chain
// that the queue allows, later ones allocate nothing.
type Chain struct {
	Head     uint16   // names the chain in Push
	Readable [][]byte // what the driver gives the device; no empty slices
	Writable [][]byte // room for the device's answer; no empty slices

	readable, writable [][]byte // the same from their first element on, however the device reslices
}

// ReadableLen is the number of bytes in Readable, below 2^32.
func (c *Chain) ReadableLen() int { return Len(c.Readable) }

// WritableLen is the number of bytes in Writable, below 2^32.
func (c *Chain) WritableLen() int { return Len(c.Writable) }

const ( // §2.7.5
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// descriptor is a private copy of struct virtq_desc (§2.7.5).
type descriptor [descSize]byte

func (d *descriptor) addr() guestmem.GPA { return guestmem.GPA(binary.LittleEndian.Uint64(d[0:])) }
func (d *descriptor) len() uint32        { return binary.LittleEndian.Uint32(d[8:]) }
func (d *descriptor) flags() uint16      { return binary.LittleEndian.Uint16(d[12:]) }
func (d *descriptor) next() uint16       { return binary.LittleEndian.Uint16(d[14:]) }

// Pop takes the next available chain. It returns false when there is none. An
// error is a [*Error]: the queue is broken, and the device calls NeedsReset and
// leaves it alone.
func (q *Queue) Pop(c *Chain) (bool, error) {
	if q.broken != nil {
		return false, q.broken
	}
	if q.nextAvail == q.seenAvail {
		if more, err := q.look(); !more {
			return false, err
		}
	}
	// The copy is what is checked and used; the ring may change meanwhile.
	head := binary.LittleEndian.Uint16(q.availRing[int(q.nextAvail&(q.cfg.Size-1))*availEntry:])
	if head >= q.cfg.Size {
		return false, q.fail("2.7.6", "head %d in a queue of %d", head, q.cfg.Size)
	}
	if q.flies(head) {
		return false, q.fail("2.7.13", "head %d made available again while in flight", head)
	}
	if room := 2 * int(q.cfg.Size); cap(c.readable) < room {
		c.readable, c.writable = make([][]byte, 0, room), make([][]byte, 0, room)
	}
	c.Head, c.Readable, c.Writable = head, c.readable[:0], c.writable[:0]
	if err := q.walk(c); err != nil {
		return false, err
	}
	q.nextAvail++
	q.inFlight[head/64] |= 1 << (head % 64)
	q.flying++
	return true, nil
}

// look reads avail.idx and reports whether it is ahead of us.
func (q *Queue) look() (bool, error) {
	idx := q.availIdx.Load()
	if ahead := idx - q.nextAvail; ahead > q.cfg.Size {
		return false, q.fail("2.7.6", "avail.idx is %d ahead in a queue of %d", ahead, q.cfg.Size)
	}
	q.seenAvail = idx
	return idx != q.nextAvail, nil
}

func (q *Queue) flies(head uint16) bool { return q.inFlight[head/64]&(1<<(head%64)) != 0 }

// walk resolves the chain that starts at c.Head. Each table is left after as
// many hops as it has entries, so that loops end.
func (q *Queue) walk(c *Chain) error {
	var (
		table    = q.desc
		left     = int(q.cfg.Size) // hops that this table still allows
		index    = c.Head
		indirect = false
		total    = uint64(0)
	)
	for {
		if int(index) >= len(table)/descSize {
			return q.fail("2.7.5", "chain %d goes to descriptor %d of %d", c.Head, index, len(table)/descSize)
		}
		if left--; left < 0 {
			return q.fail("2.7.5.2", "chain %d loops", c.Head)
		}
		var d descriptor
		copy(d[:], table[int(index)*descSize:])
		flags := d.flags()

		if flags&descIndirect != 0 {
			switch {
			case !q.cfg.Indirect:
				return q.fail("2.7.5.3.1", "chain %d has an indirect descriptor that was not negotiated", c.Head)
			case indirect:
				return q.fail("2.7.5.3.1", "chain %d nests an indirect table", c.Head)
			case flags&descNext != 0:
				return q.fail("2.7.5.3.1", "chain %d continues after an indirect table", c.Head)
			case d.len() == 0 || d.len()%descSize != 0 || d.len()/descSize > uint32(q.cfg.Size):
				return q.fail("2.7.5.3.1", "chain %d has an indirect table of %d bytes in a queue of %d", c.Head, d.len(), q.cfg.Size)
			}
			t, err := q.mem.Slice(d.addr(), int(d.len()))
			if err != nil {
				return q.fail("2.7.5.3", "chain %d has an indirect table of %d bytes at %v: not in RAM", c.Head, d.len(), d.addr())
			}
			table, left, index, indirect = t, len(t)/descSize, 0, true
			continue
		}

		if total += uint64(d.len()); total > math.MaxUint32 {
			return q.fail("2.7.5.2", "chain %d is longer than 2^32 bytes", c.Head)
		}
		if err := q.add(c, &d); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		index = d.next()
	}
}

// add appends one buffer to the chain. Empty ones count as hops only: the
// specification allows them, and no byte of them is ever touched.
func (q *Queue) add(c *Chain, d *descriptor) error {
	write := d.flags()&descWrite != 0
	if !write && len(c.Writable) > 0 {
		return q.fail("2.7.4.2", "chain %d has a readable buffer after a writable one", c.Head)
	}
	if d.len() == 0 {
		return nil
	}
	b, err := q.mem.Slice(d.addr(), int(d.len()))
	if err != nil {
		return q.fail("2.7.5", "chain %d has %d bytes at %v: not in RAM", c.Head, d.len(), d.addr())
	}
	if write {
		c.Writable = append(c.Writable, b)
	} else {
		c.Readable = append(c.Readable, b)
	}
	return nil
}
