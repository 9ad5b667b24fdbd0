// Package mmio is the virtio-mmio transport, version 2 (virtio 1.3 §4.2): the
// register window through which a driver finds, starts, notifies and resets one
// device.
//
// What a driver may read stands in a page of memory ([Config.Page]), the device's
// configuration as of the driver's last step or the device's last word on it. Where
// the hypervisor can show that page to the guest, reads cost no exit, and those of a
// wrong width are answered and not counted; everywhere else ReadMMIO looks into it.
//
// Whatever the guest does has a defined answer, so the register methods return
// no errors: a breach of the specification is ignored or sets DEVICE_NEEDS_RESET
// (§2.1), is counted, and is logged at a bounded rate.
package mmio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Size is the number of bytes of guest-physical address space to give a transport.
const Size = 4096

// ring is what the transport offers on top of the device's features (§6).
const ring = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

// Config is how a transport reaches the rest of the machine.
type Config struct {
	// Page is where the registers stand: Size bytes, zero, aligned to 4, that
	// nobody else writes. The guest may be let read it. nil means memory of the
	// transport's own.
	Page []byte
	// Interrupt pulses the device's edge-triggered interrupt line. Any
	// goroutine may call it; it must not block. nil means no interrupts.
	Interrupt func()
	// Log receives what the guest or the host did wrong, at a bounded rate. Any
	// goroutine may call it. nil means silence.
	Log func(format string, args ...any)
}

// Counters say what a transport saw since it was made.
type Counters struct {
	Notifications uint64 // that reached the transport; an ioeventfd takes the others
	Dropped       uint64 // notifications of queues that are absent, disabled or broken
	Interrupts    uint64 // pulses
	DriverErrors  uint64 // breaches of the specification
	HostErrors    uint64 // devices that could not start or stop
	Resets        uint64
}

// Transport is the register window of one device.
type Transport struct {
	dev     virtio.Device
	mem     *guestmem.Memory
	cfg     Config
	offered virtio.Features
	sizes   []uint16
	events  []int // eventfd per queue, or -1

	page   page // InterruptStatus, ConfigGeneration and DEVICE_NEEDS_RESET are in no other place
	count  struct{ notifications, dropped, interrupts, driverErrors, hostErrors, resets atomic.Uint64 }
	limits [sites]virtio.LogLimit

	// config is held while the device's configuration space is read and shown, so
	// that an older one cannot be shown last, nor one of a stopped device. It comes
	// after mu.
	config sync.Mutex

	// mu is held for writing while the device is started and stopped, and for
	// reading during Notify, so that Reset excludes Notify. The [line] does
	// not take it: a device may use it in any of its methods, ConfigChanged but in
	// ReadConfig.
	mu        sync.RWMutex
	status    virtio.Status // without DEVICE_NEEDS_RESET, which is set without mu
	line      *line         // not nil while the device is active
	stuck     bool          // closed, or the device could not be stopped: never start it again
	devSel    uint32
	drvSel    uint32
	features  virtio.Features // as the driver wrote them
	tooMany   bool            // the driver set a feature bit above 63
	queueSel  uint32
	queueRegs []queueRegs
}

// New returns the transport of a device, in reset.
func New(dev virtio.Device, mem *guestmem.Memory, cfg Config) *Transport {
	t := &Transport{
		dev: dev, mem: mem, cfg: cfg,
		offered: dev.Features() | ring,
		sizes:   dev.QueueSizes(),
		page:    newPage(cfg.Page),
	}
	t.queueRegs = make([]queueRegs, len(t.sizes))
	t.events = make([]int, len(t.sizes))
	var events []int
	if e, ok := dev.(virtio.QueueEventer); ok {
		events = e.QueueEvents()
	}
	for i := range t.events {
		t.events[i] = -1
		if i < len(events) {
			t.events[i] = events[i]
		}
	}
	t.showConstants()
	t.clear()
	return t
}

// Device returns the device behind the transport.
func (t *Transport) Device() virtio.Device { return t.dev }

// Counters returns what happened so far. Any goroutine may call it.
func (t *Transport) Counters() Counters {
	c := &t.count
	return Counters{
		c.notifications.Load(), c.dropped.Load(), c.interrupts.Load(),
		c.driverErrors.Load(), c.hostErrors.Load(), c.resets.Load(),
	}
}

// Close resets the device and keeps it so. When it returns, the device touches
// guest memory no more. The registers may still be accessed. Closing twice is
// harmless.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.reset()
	t.stuck = true
	return err
}

// ReadMMIO is a read of len(p) bytes at an offset into the window, on any vCPU thread.
func (t *Transport) ReadMMIO(off uint64, p []byte) {
	clear(p)
	if off < regConfig && (len(p) != 4 || off%4 != 0) { // §4.2.2.2
		t.driverError(siteAccess, "4.2.2.2", "%d-byte read of register %#x", len(p), off)
		return
	}
	t.page.read(p, off)
}

// WriteMMIO is a write of len(p) bytes at an offset into the window, on any vCPU thread.
func (t *Transport) WriteMMIO(off uint64, p []byte) {
	if off >= regConfig {
		if off < Size {
			t.dev.WriteConfig(p, uint32(off-regConfig))
			t.readConfig()
		}
		return
	}
	if len(p) != 4 || off%4 != 0 { // §4.2.2.2
		t.driverError(siteAccess, "4.2.2.2", "%d-byte write of register %#x", len(p), off)
		return
	}
	v := binary.LittleEndian.Uint32(p)
	switch off {
	case QueueNotify:
		t.notify(v)
	case InterruptACK:
		t.page.at(regInterrupt).And(^v)
	default:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.writeRegister(off, v)
		t.showSelected()
	}
}

// notify passes on that queue v has new buffers (§4.2.3.3).
func (t *Transport) notify(v uint32) {
	t.count.notifications.Add(1)
	t.mu.RLock()
	defer t.mu.RUnlock()
	if v >= uint32(len(t.sizes)) {
		t.count.dropped.Add(1)
		t.driverError(siteNotify, "4.2.2", "notification of queue %d of %d", v, len(t.sizes))
		return
	}
	if t.line == nil || t.needsReset() || t.queueRegs[v].queue == nil {
		t.count.dropped.Add(1)
		return
	}
	if fd := t.events[v]; fd >= 0 {
		signal(fd)
		return
	}
	t.dev.Notify(int(v))
}

// activate starts the device at DRIVER_OK (§3.1.1 step 8). Preconditions: mu.
func (t *Transport) activate() {
	if t.stuck || t.needsReset() {
		return
	}
	a := virtio.Activation{Mem: t.mem, Features: t.features, Queues: make([]*queue.Queue, len(t.queueRegs))}
	for i := range t.queueRegs {
		a.Queues[i] = t.queueRegs[i].queue
	}
	l := &line{t: t}
	a.IRQ = l
	if err := t.dev.Activate(a); err != nil {
		l.dead.Store(true)
		t.setNeedsReset()
		_ = t.hostError("start", err)
		return
	}
	t.line = l
}

// reset stops the device and forgets all that the driver said (§2.4). Preconditions: mu.
func (t *Transport) reset() error {
	t.count.resets.Add(1)
	var err error
	if t.line != nil {
		err = t.dev.Reset()
		t.line.dead.Store(true)
		t.line = nil
	}
	t.clear()
	if err != nil {
		// It may still use its queues, so it is not handed others.
		t.stuck = true
		t.setNeedsReset()
		return t.hostError("stop", err)
	}
	return nil
}

// clear sets all registers to their reset values. Preconditions: mu.
func (t *Transport) clear() {
	t.status, t.features, t.tooMany = 0, 0, false
	t.devSel, t.drvSel, t.queueSel = 0, 0, 0
	for i := range t.queueRegs {
		t.queueRegs[i] = queueRegs{size: uint32(t.sizes[i])}
	}
	t.page.at(regInterrupt).Store(0)
	t.page.at(regStatus).Store(0)
	if t.stuck {
		t.setNeedsReset()
	}
	t.showSelected()
	t.readConfig() // after a ConfigChanged under way; a later one finds its line dead
}

// line is the interrupter of one activation. It outlives a reset without effect.
type line struct {
	t    *Transport
	dead atomic.Bool
}

// Used implements [virtio.Interrupter].
func (l *line) Used(int) { l.raise(InterruptUsed) }

// ConfigChanged implements [virtio.Interrupter].
func (l *line) ConfigChanged() {
	l.t.config.Lock()
	defer l.t.config.Unlock()
	if l.dead.Load() {
		return
	}
	l.t.showConfig()
	l.t.page.at(regGeneration).Add(1)
	l.raise(interruptConfig)
}

// NeedsReset implements [virtio.Interrupter].
func (l *line) NeedsReset(err error) {
	if l.dead.Load() {
		return
	}
	l.t.broken(err)
	l.raise(interruptConfig) // §2.1.2
}

// raise pulses the line even if the bit is set already: a pulse costs little,
// and one lost in a masked interrupt controller would otherwise be the last.
func (l *line) raise(bit uint32) {
	if l.dead.Load() {
		return
	}
	l.t.page.at(regInterrupt).Or(bit)
	l.t.count.interrupts.Add(1)
	if l.t.cfg.Interrupt != nil {
		l.t.cfg.Interrupt()
	}
}

// broken marks the device as in need of a reset.
func (t *Transport) broken(err error) {
	t.setNeedsReset()
	if q := (*queue.Error)(nil); errors.As(err, &q) {
		err = &virtio.DriverError{Dev: t.dev.ID(), Section: q.Section, Detail: q.Detail}
	}
	t.count.driverErrors.Add(1)
	t.log(siteReset, "%v; the device waits for a reset", err)
}

// driverError counts and logs a breach that has no further effect.
func (t *Transport) driverError(s site, section, format string, args ...any) {
	t.count.driverErrors.Add(1)
	t.log(s, "virtio: %v: driver breaks §%s: "+format, append([]any{t.dev.ID(), section}, args...)...)
}

// hostError counts, logs and returns a failure that is not the guest's.
func (t *Transport) hostError(what string, err error) error {
	t.count.hostErrors.Add(1)
	err = fmt.Errorf("mmio: %s virtio %v: %w", what, t.dev.ID(), err)
	t.log(siteHost, "%v", err)
	return err
}

// site is one place that logs what a guest can cause at will.
type site int

const (
	siteAccess site = iota
	siteNotify
	siteStatus
	siteFeatures
	siteQueue
	siteReset
	siteHost
	sites // number of sites
)

func (t *Transport) log(s site, format string, args ...any) {
	t.limits[s].Log(t.cfg.Log, format, args...)
}
