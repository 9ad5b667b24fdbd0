// Package queue is the device side of a split virtqueue (virtio 1.3 §2.7), with
// indirect descriptors (§2.7.5.3) and event indices (§2.7.7, §2.7.10).
//
// The driver is an attacker: rings are checked once in [New], every descriptor
// is copied before it is judged, chains are bounded, and nothing is allocated
// after New. What breaks the specification is an [*Error]; the queue then stays
// broken until the driver resets the device.
//
// A Queue belongs to one goroutine at a time; it has no locks.
package queue

import (
	"errors"
	"fmt"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// MaxSize is the largest number of descriptors of a split queue (§2.7).
const MaxSize = 32768

const ( // §2.7: sizes in bytes and alignments of the three parts
	descSize   = 16
	availFixed = 6 // flags, idx, used_event
	usedFixed  = 6 // flags, idx, avail_event
	availEntry = 2
	usedEntry  = 8

	descAlign  = 16
	availAlign = 2
	usedAlign  = 4
)

const ( // §2.7.6, §2.7.8: offsets within the available and the used ring
	ringFlags   = 0
	ringIdx     = 2
	ringEntries = 4
)

const ( // §2.7.7, §2.7.10
	availNoInterrupt = 1
	usedNoNotify     = 1
)

// Error is a breach of the specification by the guest's driver.
type Error struct {
	Section string // of virtio 1.3
	Detail  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("queue: driver breaks §%s: %s", e.Section, e.Detail)
}

// ErrHead says that the device used a buffer it does not hold: a fault of the
// device, not of the driver.
var ErrHead = errors.New("queue: push of a chain that is not in flight")

// Config is where the driver put a queue, and what was agreed for it.
type Config struct {
	Size     uint16       // descriptors, a power of two (§2.7)
	Desc     guestmem.GPA // descriptor table (§2.7.5)
	Avail    guestmem.GPA // available ring (§2.7.6)
	Used     guestmem.GPA // used ring (§2.7.8)
	EventIdx bool         // VIRTIO_F_EVENT_IDX
	Indirect bool         // VIRTIO_F_INDIRECT_DESC
}

// Queue is the device's end of one virtqueue.
type Queue struct {
	mem    *guestmem.Memory
	cfg    Config
	region guestmem.Region // where the last buffer was

	desc       []byte // guest RAM: cfg.Size descriptors
	availRing  []byte // guest RAM: cfg.Size heads
	usedRing   []byte // guest RAM: cfg.Size elements
	availFlags guestmem.Cell16
	availIdx   guestmem.Cell16
	usedEvent  guestmem.Cell16 // §2.7.7: the driver's wish
	usedFlags  guestmem.Cell16
	usedIdx    guestmem.Cell16
	availEvent guestmem.Cell16 // §2.7.10: the device's wish

	nextAvail  uint16 // first avail entry not popped yet
	seenAvail  uint16 // avail.idx when last read; entries before it may be popped
	nextUsed   uint16 // our used.idx
	signalled  uint16 // used.idx at the last NeedInterrupt
	unsignaled uint32 // pushes since then
	inFlight   []uint64
	flying     int
	broken     *Error
}

// New checks where the driver put the queue and returns its device side. All
// three parts must be aligned, inside one region of RAM each, and disjoint. The
// error is a [*Error].
func New(mem *guestmem.Memory, c Config) (*Queue, error) {
	if c.Size == 0 || c.Size > MaxSize || c.Size&(c.Size-1) != 0 {
		return nil, &Error{"2.7", fmt.Sprintf("queue size %d is not a power of two up to %d", c.Size, MaxSize)}
	}
	n := int(c.Size)
	parts := [3]part{
		{"descriptor table", c.Desc, descSize * n, descAlign},
		{"available ring", c.Avail, availFixed + availEntry*n, availAlign},
		{"used ring", c.Used, usedFixed + usedEntry*n, usedAlign},
	}
	var ram [3][]byte
	for i, p := range parts {
		if uint64(p.at)%p.align != 0 {
			return nil, &Error{"2.7", fmt.Sprintf("%s at %v is not aligned to %d", p.name, p.at, p.align)}
		}
		b, err := mem.Slice(p.at, p.size)
		if err != nil {
			return nil, &Error{"2.7", fmt.Sprintf("%s of %d bytes at %v is not in RAM", p.name, p.size, p.at)}
		}
		ram[i] = b
		for _, o := range parts[:i] {
			// Both are inside RAM, so the sums cannot wrap.
			if p.at < o.at+guestmem.GPA(o.size) && o.at < p.at+guestmem.GPA(p.size) {
				return nil, &Error{"2.7", fmt.Sprintf("%s at %v overlaps the %s at %v", p.name, p.at, o.name, o.at)}
			}
		}
	}
	q := &Queue{
		mem: mem, cfg: c,
		desc:      ram[0],
		availRing: ram[1][ringEntries : ringEntries+availEntry*n],
		usedRing:  ram[2][ringEntries : ringEntries+usedEntry*n],
		inFlight:  make([]uint64, (n+63)/64),
	}
	for _, c := range []struct {
		cell *guestmem.Cell16
		at   guestmem.GPA
	}{
		{&q.availFlags, c.Avail + ringFlags},
		{&q.availIdx, c.Avail + ringIdx},
		{&q.usedEvent, c.Avail + ringEntries + guestmem.GPA(availEntry*n)},
		{&q.usedFlags, c.Used + ringFlags},
		{&q.usedIdx, c.Used + ringIdx},
		{&q.availEvent, c.Used + ringEntries + guestmem.GPA(usedEntry*n)},
	} {
		cell, err := mem.Cell16(c.at)
		if err != nil {
			return nil, &Error{"2.7", err.Error()}
		}
		*c.cell = cell
	}
	return q, nil
}

type part struct {
	name  string
	at    guestmem.GPA
	size  int
	align uint64
}

// Size is the number of descriptors.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// InFlight is the number of chains popped and not pushed yet.
func (q *Queue) InFlight() int { return q.flying }

// fail breaks the queue for good: a driver that violates the layout once gets
// no second guess at what its rings mean.
func (q *Queue) fail(section, format string, args ...any) error {
	q.broken = &Error{section, fmt.Sprintf(format, args...)}
	return q.broken
}
