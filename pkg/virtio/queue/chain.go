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

	buffers [][]byte // the memory of both
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

// descriptor is struct virtq_desc (§2.7.5).
type descriptor struct {
	addr        guestmem.GPA
	len         uint32
	flags, next uint16
}

// loadDescriptor reads each byte of guest RAM once: what it returns is a private copy.
func loadDescriptor(p []byte) descriptor {
	rest := binary.LittleEndian.Uint64(p[8:descSize])
	return descriptor{
		addr: guestmem.GPA(binary.LittleEndian.Uint64(p)),
		len:  uint32(rest), flags: uint16(rest >> 32), next: uint16(rest >> 48),
	}
}

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
	if room := 2 * int(q.cfg.Size); len(c.buffers) < room { // a table of the ring's, and an indirect one
		c.buffers = make([][]byte, room)
	}
	c.Head, c.Readable, c.Writable = head, nil, nil
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
// many hops as it has entries, so that loops end. Large requests have hundreds of
// descriptors, so the way past a good one calls nothing.
func (q *Queue) walk(c *Chain) error {
	var (
		table    = q.desc
		left     = int(q.cfg.Size) // hops that this table still allows
		index    = int(c.Head)
		indirect = false
		total    = uint64(0)

		buffers  = c.buffers
		n        = 0  // buffers so far
		writable = -1 // the first of those that may be written; -1: none yet
	)
	for {
		if index >= len(table)/descSize {
			return q.fail("2.7.5", "chain %d goes to descriptor %d of %d", c.Head, index, len(table)/descSize)
		}
		if left--; left < 0 {
			return q.fail("2.7.5.2", "chain %d loops", c.Head)
		}
		d := loadDescriptor(table[index*descSize:][:descSize])
		if total += uint64(d.len); total > math.MaxUint32 && d.flags&descIndirect == 0 {
			return q.fail("2.7.5.2", "chain %d is longer than 2^32 bytes", c.Head)
		}
		switch {
		case d.flags&descIndirect != 0:
			t, err := q.indirectTable(c, d, indirect)
			if err != nil {
				return err
			}
			table, left, index, indirect, total = t, len(t)/descSize, 0, true, total-uint64(d.len)
			continue
		case d.flags&descWrite != 0:
			if writable < 0 {
				writable = n
			}
		case writable >= 0:
			return q.fail("2.7.4.2", "chain %d has a readable buffer after a writable one", c.Head)
		}
		b := q.region.Slice(d.addr, int(d.len))
		if b == nil {
			var err error
			if b, err = q.slice(c, d); err != nil {
				return err
			}
		}
		// Empty buffers count as hops, and for the order of both kinds, only: the
		// specification allows them, and no byte of them is ever touched.
		if len(b) > 0 {
			buffers[n] = b
			n++
		}
		if d.flags&descNext == 0 {
			break
		}
		index = int(d.next)
	}
	if writable < 0 {
		writable = n
	}
	c.Readable, c.Writable = buffers[:writable:writable], buffers[writable:n]
	return nil
}

// indirectTable is the table that d refers to (§2.7.5.3). The chain may be in one already.
func (q *Queue) indirectTable(c *Chain, d descriptor, already bool) ([]byte, error) {
	switch {
	case !q.cfg.Indirect:
		return nil, q.fail("2.7.5.3.1", "chain %d has an indirect descriptor that was not negotiated", c.Head)
	case already:
		return nil, q.fail("2.7.5.3.1", "chain %d nests an indirect table", c.Head)
	case d.flags&descNext != 0:
		return nil, q.fail("2.7.5.3.1", "chain %d continues after an indirect table", c.Head)
	case d.len == 0 || d.len%descSize != 0 || d.len/descSize > uint32(q.cfg.Size):
		return nil, q.fail("2.7.5.3.1", "chain %d has an indirect table of %d bytes in a queue of %d", c.Head, d.len, q.cfg.Size)
	}
	t, err := q.mem.Slice(d.addr, int(d.len))
	if err != nil {
		return nil, q.fail("2.7.5.3", "chain %d has an indirect table of %d bytes at %v: not in RAM", c.Head, d.len, d.addr)
	}
	return t, nil
}

// slice finds a buffer that is not in the region where the last one was, and is
// where buffers are found to be nowhere.
func (q *Queue) slice(c *Chain, d descriptor) ([]byte, error) {
	if d.len == 0 {
		return nil, nil
	}
	r := q.mem.Region(d.addr)
	b := r.Slice(d.addr, int(d.len))
	if b == nil {
		return nil, q.fail("2.7.5", "chain %d has %d bytes at %v: not in RAM", c.Head, d.len, d.addr)
	}
	q.region = r
	return b, nil
}
