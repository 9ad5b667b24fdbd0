package virtiotest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
)

// trick is one thing a hostile driver does to a queue of a started device. It
// submits as many chains as it says.
type trick struct {
	name   string
	breaks bool // the queue must be refused; else the chains come back or the queue is refused
	play   func(d *Driver, r *Ring)
}

// Hostile lets a hostile guest at every queue and register of a device. Whatever
// it does, the device answers, stays in guest RAM, and works again after a reset.
// The numbers are those of the project's list of hostile cases.
func (s Suite) Hostile(t *testing.T) {
	for _, c := range hostileCases {
		t.Run(fmt.Sprintf("%02d%s", c.number, c.name), func(t *testing.T) { c.run(s, t) })
	}
}

// HostileCase is one case of Hostile.
func (s Suite) HostileCase(t *testing.T, number int) {
	for _, c := range hostileCases {
		if c.number == number {
			c.run(s, t)
			return
		}
	}
	t.Fatalf("virtiotest: there is no hostile case %d", number)
}

var hostileCases = []struct {
	number int
	name   string
	run    func(Suite, *testing.T)
}{
	{1, "ChainLoops", playing(chainLoops)},
	{2, "NextOutOfRange", playing(nextOutOfRange)},
	{3, "AddressOutsideRAM", playing(addressOutsideRAM)},
	{4, "LengthOverflow", playing(lengthOverflow)},
	{5, "EmptyDescriptors", playing(emptyDescriptors)},
	{6, "WrongDirection", playing(wrongDirection)},
	{7, "IndirectTable", playing(indirectTable)},
	{8, "AvailIndexJumps", playing(availIndexJumps)},
	{9, "RingRewritten", Suite.ringRewritten},
	{10, "SameHeadTwice", playing(sameHeadTwice)},
	{11, "RingPlacement", Suite.ringPlacement},
	{12, "QueueSize", Suite.queueSize},
	{13, "QueueSelect", Suite.queueSelect},
	{14, "StatusMachine", Suite.statusMachine},
	{15, "ResetInFlight", func(s Suite, t *testing.T) { s.ResetInFlight(t, 500) }},
	{16, "GarbageEvents", Suite.garbageEvents},
	{17, "NotifyStorm", Suite.notifyStorm},
	{18, "OddAccesses", Suite.oddAccesses},
}

func playing(tricks []trick) func(Suite, *testing.T) {
	return func(s Suite, t *testing.T) { s.play(t, tricks) }
}

// play runs tricks against each queue, with a working device in between.
func (s Suite) play(t *testing.T, tricks []trick) {
	d := Attach(t, s.New(t))
	for q := range d.dev.QueueSizes() {
		for _, k := range tricks {
			d.Up(allRing | d.dev.Features())
			r := d.Rings[q]
			from := r.AvailIdx()
			k.play(d, r)
			d.Write(RegQueueNotify, uint32(q))
			s.settle(d, fmt.Sprintf("queue %d: %s", q, k.name), q, int(r.AvailIdx()-from), k.breaks)
		}
	}
	d.Up(allRing)
	s.exercise(d)
}

// settle waits until the device has dealt with n chains, one way or the other.
func (s Suite) settle(d *Driver, what string, q, n int, breaks bool) {
	d.T.Helper()
	for _, w := range s.Waits {
		if w == q {
			if s.Stimulate == nil {
				return
			}
			s.Stimulate(d, q)
			if !breaks {
				return // how many chains that takes is the device's business
			}
		}
	}
	used := 0
	ok := Poll(func() bool {
		for ; ; used++ {
			if _, more := d.Rings[q].Reap(); !more {
				break
			}
		}
		return d.NeedsReset() || !breaks && used >= n
	})
	if !ok {
		d.T.Fatalf("virtiotest: %s: %d of %d chains came back, status %#x", what, used, n, d.Status())
	}
}

// hand submits hand-written descriptors, the first of which is the head.
func hand(r *Ring, descs ...Desc) {
	for i, desc := range descs {
		r.SetDesc(uint16(i), desc)
	}
	r.Submit(0)
}

var chainLoops = []trick{
	{"to itself", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(64), 64, DescNext, 0}) }},
	{"writable, to itself", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(64), 64, DescNext | DescWrite, 0}) }},
	{"empty, to itself", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(64), 0, DescNext, 0}) }},
	{"of two", true, func(d *Driver, r *Ring) {
		hand(r, Desc{d.Alloc(64), 64, DescNext, 1}, Desc{d.Alloc(64), 64, DescNext, 0})
	}},
	{"in an indirect table", true, func(d *Driver, r *Ring) {
		table := d.Alloc(64)
		putDesc(d.Bytes(table, 16), Desc{d.Alloc(16), 16, DescNext, 1})
		putDesc(d.Bytes(table+16, 16), Desc{d.Alloc(16), 16, DescNext, 0})
		hand(r, Desc{table, 32, DescIndirect, 0})
	}},
}

var nextOutOfRange = []trick{
	{"next is the queue size", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(64), 64, DescNext, r.Size}) }},
	{"next is 65535", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(64), 64, DescNext | DescWrite, 0xffff}) }},
	{"head is the queue size", true, func(_ *Driver, r *Ring) { r.Submit(r.Size) }},
	{"head is 65535", true, func(_ *Driver, r *Ring) { r.Submit(0xffff) }},
	{"next leaves an indirect table", true, func(d *Driver, r *Ring) {
		table := d.Alloc(16)
		putDesc(d.Bytes(table, 16), Desc{d.Alloc(16), 16, DescNext, 1})
		hand(r, Desc{table, 16, DescIndirect, 0})
	}},
}

// eachWay makes a trick of one bad buffer in each direction.
func eachWay(name string, at guestmem.GPA, n uint32) []trick {
	return []trick{
		{name + ", readable", true, func(_ *Driver, r *Ring) { hand(r, Desc{at, n, 0, 0}) }},
		{name + ", writable", true, func(_ *Driver, r *Ring) { hand(r, Desc{at, n, DescWrite, 0}) }},
		{name + ", indirect table", true, func(_ *Driver, r *Ring) { hand(r, Desc{at, n &^ 15, DescIndirect, 0}) }},
	}
}

func join(lists ...[]trick) (all []trick) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var addressOutsideRAM = join(
	eachWay("in the hole", LowBase+LowSize, 64),
	eachWay("at a device", 0xd000_0000, 64),
	eachWay("over the end of a region", LowBase+LowSize-1, 64),
	eachWay("before a region", HighBase-16, 32),
	eachWay("from one region to the other", LowBase+LowSize-64, HighBase-LowSize),
	eachWay("beyond RAM", HighBase+HighSize, 64),
	eachWay("at the top", math.MaxUint64-15, 64),
)

var lengthOverflow = join(
	eachWay("end wraps", math.MaxUint64-0xffff, 0x20000),
	eachWay("4 GiB less one", 0x1000, math.MaxUint32),
	eachWay("negative", 0x1000, 1<<31),
	[]trick{
		{"sum of readable lengths", true, func(_ *Driver, r *Ring) { overflow(r, 0) }},
		{"sum of writable lengths", true, func(_ *Driver, r *Ring) { overflow(r, DescWrite) }},
		{"sum through an indirect table", true, func(d *Driver, r *Ring) {
			n := int(r.Size)
			table := d.Alloc(16 * n)
			for i := range n {
				desc := Desc{LowBase, 1 << 31, DescNext, uint16(i + 1)}
				if i == n-1 {
					desc.Flags = 0
				}
				putDesc(d.Bytes(table+guestmem.GPA(16*i), 16), desc)
			}
			hand(r, Desc{table, uint32(16 * n), DescIndirect, 0})
		}},
	},
)

// overflow submits a chain of all descriptors, whose lengths sum up to more than 2^32
// if the first of them are believed.
func overflow(r *Ring, flags uint16) {
	for i := range r.Size {
		r.SetDesc(i, Desc{LowBase, 1<<32 - 16, flags | DescNext, i + 1})
	}
	r.SetDesc(r.Size-1, Desc{LowBase, 1<<32 - 16, flags, 0})
	r.Submit(0)
}

var emptyDescriptors = []trick{
	{"one readable", false, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(1), 0, 0, 0}) }},
	{"one writable", false, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(1), 0, DescWrite, 0}) }},
	{"queue full of readable", false, func(_ *Driver, r *Ring) { empty(r, 0) }},
	{"queue full of writable", false, func(_ *Driver, r *Ring) { empty(r, DescWrite) }},
	{"queue full of single ones", false, func(_ *Driver, r *Ring) {
		for i := range r.Size {
			r.SetDesc(i, Desc{0, 0, DescWrite * (i & 1), 0})
			r.Submit(i)
		}
	}},
}

func empty(r *Ring, flags uint16) {
	for i := range r.Size {
		r.SetDesc(i, Desc{0, 0, flags | DescNext, i + 1})
	}
	r.SetDesc(r.Size-1, Desc{0, 0, flags, 0})
	r.Submit(0)
}

var wrongDirection = []trick{
	{"readable after writable", true, func(d *Driver, r *Ring) {
		hand(r, Desc{d.Alloc(64), 64, DescNext | DescWrite, 1}, Desc{d.Alloc(64), 64, 0, 0})
	}},
	{"sandwich", true, func(d *Driver, r *Ring) {
		hand(r, Desc{d.Alloc(64), 64, DescNext, 1}, Desc{d.Alloc(64), 64, DescNext | DescWrite, 2}, Desc{d.Alloc(64), 64, 0, 0})
	}},
	{"only readable", false, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(4096), 4096, 0, 0}) }},
	{"only writable", false, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(4096), 4096, DescWrite, 0}) }},
	{"one byte each", false, func(d *Driver, r *Ring) {
		hand(r, Desc{d.Alloc(1), 1, DescNext, 1}, Desc{d.Alloc(1), 1, DescWrite, 0})
	}},
}

var indirectTable = []trick{
	{"empty", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(16), 0, DescIndirect, 0}) }},
	{"of 17 bytes", true, func(d *Driver, r *Ring) { hand(r, Desc{d.Alloc(32), 17, DescIndirect, 0}) }},
	{"of 65535 entries", true, func(d *Driver, r *Ring) { hand(r, Desc{0x1000, 65535 * 16, DescIndirect, 0}) }},
	{"larger than the queue", true, func(d *Driver, r *Ring) {
		hand(r, Desc{0x1000, 16 * (uint32(r.Size) + 1), DescIndirect, 0})
	}},
	{"with next", true, func(d *Driver, r *Ring) {
		table := d.Alloc(16)
		putDesc(d.Bytes(table, 16), Desc{d.Alloc(16), 16, 0, 0})
		hand(r, Desc{table, 16, DescIndirect | DescNext, 1}, Desc{d.Alloc(16), 16, 0, 0})
	}},
	{"nested", true, func(d *Driver, r *Ring) {
		table := d.Alloc(16)
		putDesc(d.Bytes(table, 16), Desc{table, 16, DescIndirect, 0})
		hand(r, Desc{table, 16, DescIndirect, 0})
	}},
}

var availIndexJumps = []trick{
	{"by one more than the size", true, func(_ *Driver, r *Ring) { r.SetAvailIdx(r.AvailIdx() + r.Size + 1) }},
	{"by half the range", true, func(_ *Driver, r *Ring) { r.SetAvailIdx(r.AvailIdx() + 0x8000) }},
	{"backwards", true, func(_ *Driver, r *Ring) { r.SetAvailIdx(r.AvailIdx() - 1) }},
}

var sameHeadTwice = []trick{
	{"at once", false, func(d *Driver, r *Ring) {
		hand(r, Desc{d.Alloc(64), 64, DescNext, 1}, Desc{d.Alloc(4096), 4096, DescWrite, 0})
		r.Submit(0)
	}},
	{"as often as fits", false, func(d *Driver, r *Ring) {
		r.SetDesc(0, Desc{d.Alloc(64), 64, DescWrite, 0})
		for range r.Size {
			r.Submit(0)
		}
	}},
}

// ringRewritten scribbles over descriptors and ring while the device works.
func (s Suite) ringRewritten(t *testing.T) {
	d := Attach(t, s.New(t))
	rnd := rand.New(rand.NewPCG(9, 9))
	for q := range d.dev.QueueSizes() {
		for range 20 {
			d.Up(allRing)
			r, at := d.Rings[q], d.Alloc(1<<16)
			for range 200 {
				for i := range min(r.Size, 16) {
					r.SetDesc(i, randomDesc(rnd, at, min(r.Size, 16)))
					r.SetAvail(i, uint16(rnd.Uint32())%(r.Size+1))
				}
				r.SetAvailIdx(r.AvailIdx() + uint16(rnd.Uint32N(4)))
				d.Write(RegQueueNotify, uint32(q))
			}
		}
	}
	d.Up(allRing)
	s.exercise(d)
}

// randomDesc is right often enough to get far, and wrong in all its fields.
func randomDesc(rnd *rand.Rand, at guestmem.GPA, n uint16) Desc {
	desc := Desc{at + guestmem.GPA(rnd.Uint32N(1<<16)), rnd.Uint32N(2048), uint16(rnd.Uint32N(4)), uint16(rnd.Uint32()) % n}
	switch rnd.Uint32N(8) {
	case 0:
		desc.Addr = guestmem.GPA(rnd.Uint64())
	case 1:
		desc.Len = rnd.Uint32()
	case 2:
		desc.Flags = uint16(rnd.Uint32())
	case 3:
		desc.Len &^= 15
		desc.Flags = DescIndirect
	}
	return desc
}

// ResetInFlight resets a device n times with up to 64 chains in flight, and
// checks that nothing is left behind.
func (s Suite) ResetInFlight(t *testing.T, n int) {
	d := Attach(t, s.New(t))
	d.Up(allRing | d.dev.Features())
	check := watchLeaks(t)
	for range n {
		d.Up(allRing | d.dev.Features())
		in, out := d.Alloc(4096), d.Alloc(4096)
		for q, r := range d.Rings {
			for range min(64, int(r.Size)/2) {
				r.Add(Buf{in, 16, false}, Buf{out, 513, true})
			}
			d.Write(RegQueueNotify, uint32(q))
		}
		d.Write(RegStatus, 0)
		used := make([]uint16, len(d.Rings))
		for q, r := range d.Rings {
			used[q] = r.usedIdx.Load()
		}
		if i := d.Read(RegInterrupt); i != 0 {
			t.Fatalf("virtiotest: interrupt %#x after a reset", i)
		}
		for q, r := range d.Rings {
			if now := r.usedIdx.Load(); now != used[q] {
				t.Fatalf("virtiotest: queue %d was used after a reset", q)
			}
		}
	}
	check()
	d.Up(allRing)
	s.exercise(d)
}

// garbageEvents works the device while used_event is anything.
func (s Suite) garbageEvents(t *testing.T) {
	d := Attach(t, s.New(t))
	d.AlwaysKick = true // it overwrites what says whether to
	rnd := rand.New(rand.NewPCG(16, 16))
	for _, f := range []virtio.Features{virtio.FeatureEventIdx, 0} {
		d.Up(f)
		for range 50 {
			for _, r := range d.Rings {
				r.SetUsedEvent(uint16(rnd.Uint32()))
				r.RefuseInterrupts()
				r.usedFlags.Store(uint16(rnd.Uint32())) // the device's own words
				r.availEvent.Store(uint16(rnd.Uint32()))
			}
			s.exercise(d)
		}
	}
	require.False(t, d.NeedsReset())
}

// notifyStorm notifies queues that are not there, not enabled, or have nothing.
func (s Suite) notifyStorm(t *testing.T) {
	d := Attach(t, s.New(t))
	storm := func() {
		for i := range uint32(20_000) {
			d.Write(RegQueueNotify, i%300)
			d.Write(RegQueueNotify, math.MaxUint32-i)
		}
	}
	storm()
	d.Negotiate(0)
	storm()
	d.Start()
	storm()
	require.False(t, d.NeedsReset())
	require.Less(t, len(d.Logged()), 100)
	d.Up(0)
	storm()
	s.exercise(d)
}
