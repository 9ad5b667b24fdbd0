package mmio

import (
	"encoding/binary"
	"math"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio"
)

// page is what a driver reads, in words of 32 bits. Goroutines write it while
// vCPUs read it, so every access is atomic.
type page []atomic.Uint32

// configRoom is how much of a device configuration space is shown. No device
// type has more (§5).
const configRoom = 256

func (r page) at(off uint64) *atomic.Uint32 { return &r[off/4] }

// read fills p with the bytes at off; beyond the page they stay as they are.
func (r page) read(p []byte, off uint64) {
	if off >= Size {
		return
	}
	if len(p) == 4 && off%4 == 0 {
		binary.LittleEndian.PutUint32(p, r.at(off).Load()) // at once
		return
	}
	for i := range p {
		at := off + uint64(i)
		if at >= Size {
			return
		}
		p[i] = byte(r.at(at).Load() >> (8 * (at % 4)))
	}
}

// showConstants fills in what never changes. Registers that are written only,
// or are none, read as zero.
func (t *Transport) showConstants() {
	t.page.at(regMagic).Store(magic)
	t.page.at(regVersion).Store(version)
	t.page.at(regDeviceID).Store(uint32(t.dev.ID()))
	t.page.at(regVendorID).Store(vendor)
	for _, off := range []uint64{regSHMLen, regSHMLen + 4, regSHMBase, regSHMBase + 4} {
		t.page.at(off).Store(math.MaxUint32) // §4.2.2: no region with this id
	}
}

// showSelected shows the registers that depend on what the driver selected.
// Preconditions: mu.
func (t *Transport) showSelected() {
	var features, size, ready uint32
	if t.devSel < 2 {
		features = uint32(t.offered >> (32 * t.devSel))
	}
	if t.queueSel < uint32(len(t.sizes)) {
		size = uint32(t.sizes[t.queueSel])
		if t.queueRegs[t.queueSel].queue != nil {
			ready = 1
		}
	}
	t.page.at(regDeviceFeatures).Store(features)
	t.page.at(regQueueSizeMax).Store(size)
	t.page.at(regQueueReady).Store(ready)
}

// showStatus shows the driver's status bits beside the device's own.
// Preconditions: mu.
func (t *Transport) showStatus() {
	r := t.page.at(regStatus)
	for {
		old := r.Load()
		if r.CompareAndSwap(old, old&uint32(virtio.StatusNeedsReset)|uint32(t.status)) {
			return
		}
	}
}

func (t *Transport) setNeedsReset() { t.page.at(regStatus).Or(uint32(virtio.StatusNeedsReset)) }

func (t *Transport) needsReset() bool {
	return virtio.Status(t.page.at(regStatus).Load()).Has(virtio.StatusNeedsReset)
}

// readConfig is showConfig for whoever does not hold config.
func (t *Transport) readConfig() {
	t.config.Lock()
	defer t.config.Unlock()
	t.showConfig()
}

// showConfig shows the device's configuration space as it is now. A field of up
// to 32 bits that is aligned changes at once. Preconditions: config.
func (t *Transport) showConfig() {
	var p [configRoom]byte
	t.dev.ReadConfig(p[:])
	for i := 0; i < configRoom; i += 4 {
		t.page.at(uint64(regConfig + i)).Store(binary.LittleEndian.Uint32(p[i:]))
	}
}
