// Package virtiotest tests virtio devices from the other side: a driver that
// works the virtio-mmio registers and rings as a guest would (virtio 1.3 §3,
// §4.2), a suite that every device passes, and a suite of hostile guests. It
// knows devices only through their registers and guest RAM.
package virtiotest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
)

// Patience is how long a driver waits before it calls a device dead. It is
// generous: nothing here measures speed.
const Patience = 60 * time.Second

const ( // §4.2.2
	RegMagic          = 0x000
	RegVersion        = 0x004
	RegDeviceID       = 0x008
	RegVendorID       = 0x00c
	RegDeviceFeatures = 0x010
	RegDeviceSel      = 0x014
	RegDriverFeatures = 0x020
	RegDriverSel      = 0x024
	RegQueueSel       = 0x030
	RegQueueSizeMax   = 0x034
	RegQueueSize      = 0x038
	RegQueueReady     = 0x044
	RegQueueNotify    = 0x050
	RegInterrupt      = 0x060
	RegInterruptACK   = 0x064
	RegStatus         = 0x070
	RegQueueDesc      = 0x080
	RegQueueDriver    = 0x090
	RegQueueDevice    = 0x0a0
	RegGeneration     = 0x0fc
	RegConfig         = 0x100
)

const ( // §2.1
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Registers is the register window of a device; [mmio.Transport] is one.
type Registers interface {
	ReadMMIO(off uint64, p []byte)
	WriteMMIO(off uint64, p []byte)
}

// Layout of the RAM from [NewMemory].
const (
	LowBase  = 0x0000_0000
	LowSize  = 16 << 20
	HighBase = 0x1_0000_0000 // beyond the hole for MMIO
	HighSize = 1 << 20
	heap     = 0x1000 // of the first region: Alloc starts here, address 0 stays a mistake
)

// NewMemory returns RAM in two regions with a hole between them, closed at the
// end of the test.
func NewMemory(t testing.TB) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.New(guestmem.Range{Base: LowBase, Size: LowSize}, guestmem.Range{Base: HighBase, Size: HighSize})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	return mem
}

// Driver drives one device. It belongs to the test's goroutine.
type Driver struct {
	T     testing.TB
	Mem   *guestmem.Memory
	Regs  Registers
	Rings []*Ring // as set up, nil where not; kept by Reset for whoever plays with stale rings

	Transport *mmio.Transport // nil unless made by Attach

	// AlwaysKick notifies the device whether it wants to be or not.
	AlwaysKick bool

	dev  virtio.Device
	next guestmem.GPA
	irq  chan struct{}
	mu   sync.Mutex
	log  []string
	tick *time.Timer
	word [4]byte // of Read and Write, which would allocate it
}

// Attach puts a device on a transport of its own with fresh RAM, and returns
// its driver. The transport is closed at the end of the test.
func Attach(t testing.TB, dev virtio.Device) *Driver {
	t.Helper()
	mem := NewMemory(t)
	d := New(t, mem, nil)
	d.dev = dev
	d.Transport = mmio.New(dev, mem, mmio.Config{Interrupt: d.Interrupt, Log: d.Log})
	d.Regs = d.Transport
	t.Cleanup(func() { d.Transport.Close() })
	return d
}

// New returns a driver for a register window. Interrupt must be called for each
// interrupt.
func New(t testing.TB, mem *guestmem.Memory, regs Registers) *Driver {
	d := &Driver{T: t, Mem: mem, Regs: regs, next: mem.Regions()[0].Base + heap, irq: make(chan struct{}, 1), tick: time.NewTimer(Patience)}
	t.Cleanup(func() { d.tick.Stop() })
	return d
}

// Device returns what was attached.
func (d *Driver) Device() virtio.Device { return d.dev }

// Interrupt is the device's interrupt line. Any goroutine may call it.
func (d *Driver) Interrupt() {
	select {
	case d.irq <- struct{}{}:
	default:
	}
}

// Log collects what the transport logs. Any goroutine may call it.
func (d *Driver) Log(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
}

// Logged returns the lines logged so far.
func (d *Driver) Logged() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.log...)
}

// Read reads a 32-bit register.
func (d *Driver) Read(off uint64) uint32 {
	d.Regs.ReadMMIO(off, d.word[:])
	return binary.LittleEndian.Uint32(d.word[:])
}

// Write writes a 32-bit register.
func (d *Driver) Write(off uint64, v uint32) {
	binary.LittleEndian.PutUint32(d.word[:], v)
	d.Regs.WriteMMIO(off, d.word[:])
}

// Config reads n bytes of the device configuration space.
func (d *Driver) Config(off uint64, n int) []byte {
	p := make([]byte, n)
	d.Regs.ReadMMIO(RegConfig+off, p)
	return p
}

// Status reads the device status.
func (d *Driver) Status() uint32 { return d.Read(RegStatus) }

// NeedsReset reports whether the device gave up on its driver.
func (d *Driver) NeedsReset() bool { return d.Status()&StatusNeedsReset != 0 }

// Offered reads the features that the device offers.
func (d *Driver) Offered() virtio.Features {
	d.Write(RegDeviceSel, 0)
	f := virtio.Features(d.Read(RegDeviceFeatures))
	d.Write(RegDeviceSel, 1)
	return f | virtio.Features(d.Read(RegDeviceFeatures))<<32
}

// Alloc returns n zero bytes of RAM, aligned to 4096, that nobody else uses.
func (d *Driver) Alloc(n int) guestmem.GPA {
	at := d.next
	d.next += (guestmem.GPA(n) + 4095) &^ 4095
	if low := d.Mem.Regions()[0]; d.next > low.Base+guestmem.GPA(len(low.Bytes)) {
		d.T.Fatalf("virtiotest: out of RAM")
	}
	clear(d.Bytes(at, n))
	return at
}

// Bytes returns RAM.
func (d *Driver) Bytes(at guestmem.GPA, n int) []byte {
	d.T.Helper()
	b, err := d.Mem.Slice(at, n)
	if err != nil {
		d.T.Fatal(err)
	}
	return b
}

// Put stores p in newly allocated RAM.
func (d *Driver) Put(p []byte) guestmem.GPA {
	at := d.Alloc(max(len(p), 1))
	copy(d.Bytes(at, len(p)), p)
	return at
}

// Reset resets the device and forgets all RAM allocated so far.
func (d *Driver) Reset() {
	d.Write(RegStatus, 0)
	d.next = d.Mem.Regions()[0].Base + heap
	d.drain()
}

func (d *Driver) drain() {
	select {
	case <-d.irq:
	default:
	}
}

// Negotiate resets the device and accepts exactly these features and VERSION_1
// (§3.1.1 steps 1-6).
func (d *Driver) Negotiate(f virtio.Features) {
	d.T.Helper()
	d.Reset()
	f |= virtio.FeatureVersion1
	d.Write(RegStatus, StatusAcknowledge)
	d.Write(RegStatus, StatusAcknowledge|StatusDriver)
	d.Write(RegDriverSel, 0)
	d.Write(RegDriverFeatures, uint32(f))
	d.Write(RegDriverSel, 1)
	d.Write(RegDriverFeatures, uint32(f>>32))
	d.Write(RegStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
	if d.Status()&StatusFeaturesOK == 0 {
		d.T.Fatalf("virtiotest: features %#x were refused", uint64(f))
	}
	d.Rings = nil
	for i := uint32(0); ; i++ {
		d.Write(RegQueueSel, i)
		if d.Read(RegQueueSizeMax) == 0 {
			return
		}
		d.Rings = append(d.Rings, nil)
	}
}

// SetupQueue gives the device a ring of this size, or of the largest for 0
// (§4.2.3.2).
func (d *Driver) SetupQueue(q int, size uint16, eventIdx bool) *Ring {
	d.T.Helper()
	d.Write(RegQueueSel, uint32(q))
	if size == 0 {
		size = uint16(d.Read(RegQueueSizeMax))
	}
	r, err := NewRing(d.Mem, d.Alloc(RingBytes(size)), size)
	if err != nil {
		d.T.Fatal(err)
	}
	r.EventIdx = eventIdx
	d.PlaceQueue(q, uint32(size), r.Desc, r.Avail, r.Used)
	if d.Read(RegQueueReady) != 1 {
		d.T.Fatalf("virtiotest: queue %d of %d was refused: %q", q, size, d.Logged())
	}
	d.Rings[q] = r
	return r
}

// PlaceQueue tells the device any size and addresses of a queue, and QueueReady.
func (d *Driver) PlaceQueue(q int, size uint32, desc, avail, used guestmem.GPA) {
	d.Write(RegQueueSel, uint32(q))
	d.Write(RegQueueSize, size)
	for _, p := range []struct {
		reg uint64
		at  guestmem.GPA
	}{{RegQueueDesc, desc}, {RegQueueDriver, avail}, {RegQueueDevice, used}} {
		d.Write(p.reg, uint32(p.at))
		d.Write(p.reg+4, uint32(p.at>>32))
	}
	d.Write(RegQueueReady, 1)
}

// Start sets DRIVER_OK.
func (d *Driver) Start() {
	d.Write(RegStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
}

// Up resets the device and starts it with these features and all its queues.
func (d *Driver) Up(f virtio.Features) {
	d.T.Helper()
	d.Negotiate(f)
	for q := range d.Rings {
		d.SetupQueue(q, 0, f.Has(virtio.FeatureEventIdx))
	}
	d.Start()
	if s := d.Status(); s != StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK {
		d.T.Fatalf("virtiotest: status after DRIVER_OK is %#x: %q", s, d.Logged())
	}
}

// Kick notifies the device if it wants to be.
func (d *Driver) Kick(q int) {
	if d.Rings[q].NeedKick() || d.AlwaysKick {
		d.Write(RegQueueNotify, uint32(q))
	}
}

// Interrupted waits for an interrupt, acknowledges it and returns its cause. It
// returns 0 after Patience.
func (d *Driver) Interrupted() uint32 {
	d.tick.Reset(Patience)
	for {
		select {
		case <-d.irq:
			if s := d.Read(RegInterrupt); s != 0 {
				d.Write(RegInterruptACK, s)
				return s
			}
		case <-d.tick.C:
			return 0
		}
	}
}

// WaitUsed waits, by interrupt alone, for the next used element of a queue. It
// returns false if the device wants a reset instead. A lost interrupt fails the
// test.
func (d *Driver) WaitUsed(q int) (Used, bool) {
	d.T.Helper()
	r := d.Rings[q]
	for {
		if u, ok := r.Reap(); ok {
			return u, true
		}
		if d.NeedsReset() {
			return Used{}, false
		}
		if r.WantInterrupt() {
			continue
		}
		if d.Interrupted() == 0 {
			d.T.Fatalf("virtiotest: queue %d got no interrupt in %v", q, Patience)
		}
	}
}

// Do submits one chain, notifies, and waits for it. It returns the used length.
func (d *Driver) Do(q int, bufs ...Buf) uint32 {
	d.T.Helper()
	head := d.Rings[q].Add(bufs...)
	d.Kick(q)
	u, ok := d.WaitUsed(q)
	if !ok {
		d.T.Fatalf("virtiotest: device wants a reset: %q", d.Logged())
	}
	if u.Head != head {
		d.T.Fatalf("virtiotest: chain %d came back, not %d", u.Head, head)
	}
	return u.Len
}

// Poll waits until a condition that no interrupt announces holds. It returns
// false after Patience.
func Poll(cond func() bool) bool {
	for end := time.Now().Add(Patience); ; time.Sleep(100 * time.Microsecond) {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
