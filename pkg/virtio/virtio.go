// Package virtio holds what every virtio device and transport shares: device
// ids, feature bits, the status machine and the [Device] interface (virtio 1.3).
//
// Three things are kept apart. A queue (package queue) reads descriptors; a
// device turns them into work; a transport (package mmio) decodes registers and
// carries notifications. Devices never learn which transport they sit on.
package virtio

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// DeviceID says what a device is (§5).
type DeviceID uint32

const ( // §5
	IDNet     DeviceID = 1
	IDBlock   DeviceID = 2
	IDConsole DeviceID = 3
	IDEntropy DeviceID = 4
	IDBalloon DeviceID = 5
	IDVsock   DeviceID = 19
	IDFS      DeviceID = 26
)

var deviceNames = map[DeviceID]string{
	IDNet: "net", IDBlock: "blk", IDConsole: "console", IDEntropy: "rng", IDBalloon: "balloon", IDVsock: "vsock", IDFS: "fs",
}

func (id DeviceID) String() string {
	if s, ok := deviceNames[id]; ok {
		return s
	}
	return fmt.Sprintf("device %d", uint32(id))
}

// Features is a set of feature bits (§2.2).
type Features uint64

const ( // §6; bits below 24 belong to the device type
	FeatureIndirectDesc Features = 1 << 28
	FeatureEventIdx     Features = 1 << 29
	FeatureVersion1     Features = 1 << 32
)

// Has reports whether all the given bits are set.
func (f Features) Has(bits Features) bool { return f&bits == bits }

// Device is one virtio device, without its transport. The transport calls
// WriteConfig and Notify on vCPU threads, ReadConfig on any, and Activate and Reset
// one at a time; whatever the guest does has a defined answer.
type Device interface {
	ID() DeviceID
	// Features returns the bits the device offers besides those of ring and transport.
	Features() Features
	// QueueSizes returns the largest size of each queue (§2.6), powers of two.
	QueueSizes() []uint16
	// ReadConfig copies the device configuration space (§2.5) to the start of p, which
	// is zero and longer than that of any device type: 256 bytes. The transport may
	// hold locks of its own meanwhile, so the device calls nothing of it.
	ReadConfig(p []byte)
	// WriteConfig stores p in it at off; what is read-only or beyond the end is ignored.
	WriteConfig(p []byte, off uint32)
	// Activate starts the device at DRIVER_OK (§3.1.1).
	Activate(Activation) error
	// Notify says that the driver made buffers available in queue q. It must
	// not block: the vCPU is waiting. The transport has checked q.
	Notify(q int)
	// Reset stops the device (§2.4). When it returns, no goroutine of it
	// touches guest memory. Reset of a device that is not active does nothing.
	Reset() error
}

// Activation is what a device gets to work with.
type Activation struct {
	Mem      *guestmem.Memory
	Features Features       // what device and driver agreed on
	Queues   []*queue.Queue // one per QueueSizes entry; nil where the driver did not enable it
	IRQ      Interrupter
}

// Interrupter lets a device call for the driver's attention. Every transport
// implements it; its methods may be called from any goroutine and do not block.
type Interrupter interface {
	// Used says that buffers of queue q were used and the driver wants to know.
	Used(q int)
	// ConfigChanged says that the configuration space changed (§2.3). It calls
	// ReadConfig, so the caller must hold no lock that this takes. A driver can see a
	// change of more than an aligned 32-bit word in part until its interrupt comes.
	ConfigChanged()
	// NeedsReset reports a driver error: the transport sets DEVICE_NEEDS_RESET
	// (§2.1), counts it, and logs the first ones. The device stops using the queue.
	NeedsReset(error)
}

// QueueEventer is implemented by devices that wait for eventfds rather than be
// called: the transport's owner registers them with the hypervisor, so that a
// notification costs no exit to the VMM.
type QueueEventer interface {
	// QueueEvents returns the eventfd to signal for each queue instead of
	// calling Notify; several queues may share one. They stay the same for the
	// life of the device.
	QueueEvents() []int
}

// DriverError is a breach of the specification by the guest's driver.
type DriverError struct {
	Dev     DeviceID
	Section string // of virtio 1.3
	Detail  string
}

func (e *DriverError) Error() string {
	return fmt.Sprintf("virtio: %v: driver breaks §%s: %s", e.Dev, e.Section, e.Detail)
}
