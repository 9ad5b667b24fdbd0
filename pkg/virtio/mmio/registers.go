package mmio

import (
	"math"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const ( // §4.2.2; all 32 bits wide; R/W as the driver sees it
	regMagic          = 0x000 // R   "virt"
	regVersion        = 0x004 // R   2
	regDeviceID       = 0x008 // R   §5
	regVendorID       = 0x00c // R
	regDeviceFeatures = 0x010 // R   32 bits of what is offered, chosen by 0x014
	regDeviceSel      = 0x014 // W
	regDriverFeatures = 0x020 // W   32 bits of what is accepted, chosen by 0x024
	regDriverSel      = 0x024 // W
	regQueueSel       = 0x030 // W   queue that 0x034-0x0a4 refer to
	regQueueSizeMax   = 0x034 // R   0: there is no such queue
	regQueueSize      = 0x038 // W
	regQueueReady     = 0x044 // RW
	QueueNotify       = 0x050 // W   queue that has new buffers
	regInterrupt      = 0x060 // R   InterruptStatus
	InterruptACK      = 0x064 // W
	regStatus         = 0x070 // RW  §2.1; writing 0 resets the device
	regQueueDesc      = 0x080 // W   low; high at 0x084
	regQueueDriver    = 0x090 // W   low; high at 0x094
	regQueueDevice    = 0x0a0 // W   low; high at 0x0a4
	regSHMSel         = 0x0ac // W   shared memory: there is none
	regSHMLen         = 0x0b0 // R   low; high at 0x0b4
	regSHMBase        = 0x0b8 // R   low; high at 0x0bc
	regQueueReset     = 0x0c0 // RW  VIRTIO_F_RING_RESET, which is not offered
	regGeneration     = 0x0fc // R
	regConfig         = 0x100 // RW  device configuration space
)

const (
	magic   = 0x74726976 // "virt"
	version = 2
	vendor  = 0x4c584f42 // "BOXL"

	InterruptUsed   = 1 // §4.2.2, bits of InterruptStatus and InterruptACK
	interruptConfig = 2
)

// queueRegs is what the driver wrote about one queue. Frozen once ready.
type queueRegs struct {
	size              uint32
	desc, avail, used uint64
	queue             *queue.Queue // not nil when ready
}

// writeRegister stores a register's value. A read-only or unknown one ignores it.
// Preconditions: mu.
func (t *Transport) writeRegister(off uint64, v uint32) {
	switch off {
	case regDeviceSel:
		t.devSel = v
	case regDriverSel:
		t.drvSel = v
	case regQueueSel:
		t.queueSel = v
	case regDriverFeatures:
		t.writeFeatures(v)
	case regStatus:
		t.writeStatus(virtio.Status(v))
	case regQueueSize, regQueueReady,
		regQueueDesc, regQueueDesc + 4, regQueueDriver, regQueueDriver + 4, regQueueDevice, regQueueDevice + 4:
		t.writeQueue(off, v)
	}
}

// writeFeatures takes 32 bits of what the driver accepts, which it may only say
// between DRIVER and FEATURES_OK (§3.1.1 step 4). Preconditions: mu.
func (t *Transport) writeFeatures(v uint32) {
	if !t.status.Has(virtio.StatusDriver) || t.status.Has(virtio.StatusFeaturesOK) {
		t.driverError(siteFeatures, "3.1.1", "features were written at status %#x", uint32(t.status))
		return
	}
	if t.drvSel > 1 {
		t.tooMany = t.tooMany || v != 0
		return
	}
	shift := 32 * t.drvSel
	t.features = t.features&^(math.MaxUint32<<shift) | virtio.Features(v)<<shift
}

// writeStatus walks the status machine. Preconditions: mu.
func (t *Transport) writeStatus(v virtio.Status) {
	if v == 0 {
		_ = t.reset() // counted and logged there
		return
	}
	next, detail := t.status.Advance(v, t.accept)
	if detail != "" {
		t.driverError(siteStatus, "2.1.1", "%s: %#x at %#x", detail, uint32(v), uint32(t.status))
	}
	started := next.Has(virtio.StatusDriverOK) && !t.status.Has(virtio.StatusDriverOK)
	t.status = next
	t.showStatus()
	if started {
		t.activate()
	}
	// Last, for what the host changed while the device had nobody to tell of it.
	t.readConfig()
}

// accept judges one new status bit. Preconditions: mu.
func (t *Transport) accept(bit virtio.Status) bool {
	if bit != virtio.StatusFeaturesOK {
		return true
	}
	// §3.1.1 step 5, §2.2.2, §6.2: a subset of what is offered, VERSION_1 among it.
	if extra := t.features &^ t.offered; extra != 0 || t.tooMany {
		t.driverError(siteFeatures, "2.2.1", "features %#x were accepted but not offered", uint64(extra))
		return false
	}
	if !t.features.Has(virtio.FeatureVersion1) {
		t.driverError(siteFeatures, "6.1", "VIRTIO_F_VERSION_1 was not accepted")
		return false
	}
	return true
}

// writeQueue stores a register of the selected queue, which the driver may only
// do between FEATURES_OK and DRIVER_OK (§3.1.1 step 7), and before the queue is
// ready (§4.2.2.2). Preconditions: mu.
func (t *Transport) writeQueue(off uint64, v uint32) {
	if t.queueSel >= uint32(len(t.sizes)) {
		t.driverError(siteQueue, "4.2.2.2", "register %#x of queue %d of %d was written", off, t.queueSel, len(t.sizes))
		return
	}
	r := &t.queueRegs[t.queueSel]
	if t.status == 0 && off == regQueueReady && v == 0 {
		return // drivers tear their queues down after a reset
	}
	if !t.status.Has(virtio.StatusFeaturesOK) || t.status.Has(virtio.StatusDriverOK) {
		t.driverError(siteQueue, "3.1.1", "register %#x of queue %d was written at status %#x", off, t.queueSel, uint32(t.status))
		return
	}
	if off == regQueueReady {
		t.ready(r, v)
		return
	}
	if r.queue != nil {
		t.driverError(siteQueue, "4.2.2.2", "register %#x of queue %d was written while ready", off, t.queueSel)
		return
	}
	switch off {
	case regQueueSize:
		r.size = v
	case regQueueDesc, regQueueDesc + 4:
		r.desc = half(r.desc, off, v)
	case regQueueDriver, regQueueDriver + 4:
		r.avail = half(r.avail, off, v)
	case regQueueDevice, regQueueDevice + 4:
		r.used = half(r.used, off, v)
	}
}

// half replaces the low or, at offsets 4 mod 8, the high half of an address.
func half(old, off uint64, v uint32) uint64 {
	if off%8 == 4 {
		return old&math.MaxUint32 | uint64(v)<<32
	}
	return old&^math.MaxUint32 | uint64(v)
}

// ready enables the selected queue after all checks, or disables it.
// Preconditions: mu, before DRIVER_OK.
func (t *Transport) ready(r *queueRegs, v uint32) {
	switch {
	case v == 0:
		r.queue = nil
		return
	case v != 1 || r.queue != nil:
		t.driverError(siteQueue, "4.2.2.2", "QueueReady of queue %d was set to %#x", t.queueSel, v)
		return
	case r.size > uint32(t.sizes[t.queueSel]):
		t.broken(&virtio.DriverError{Dev: t.dev.ID(), Section: "4.2.2.2", Detail: "queue size is above QueueSizeMax"})
		return
	}
	q, err := queue.New(t.mem, queue.Config{
		Size:     uint16(r.size),
		Desc:     guestmem.GPA(r.desc),
		Avail:    guestmem.GPA(r.avail),
		Used:     guestmem.GPA(r.used),
		EventIdx: t.features.Has(virtio.FeatureEventIdx),
		Indirect: t.features.Has(virtio.FeatureIndirectDesc),
	})
	if err != nil {
		t.broken(err)
		return
	}
	r.queue = q
}
