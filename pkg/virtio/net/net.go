// Package net is the virtio network device (virtio 1.3 §5.1): frames between the
// guest's driver and a [Host], the other end of the cable.
//
// Frames from the guest are handed to the host where they are, in guest RAM.
// Frames to the guest are copied once, into the buffers that the guest holds
// ready, by whoever sends them. Checksums and segmentation may be left to the
// other side both ways. Nothing is allocated per frame.
//
// Each queue pair has one goroutine. What the guest sends is judged before the
// host sees it: the guest's own source address, no VLAN tags, sizes and offloads
// that were agreed on. What is not so is dropped and counted. Frames for the guest
// are never held here; a guest that gives no buffers makes [Device.Send] say so.
package net

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio"
)

// Host is the other end of the cable. Its methods may call [Device.Send] and
// [Device.Flush], but not Reset or Close of the device, which wait for them.
type Host interface {
	// Receive takes one frame that the guest sent on queue pair q, which the
	// pieces v make up from the Ethernet header on. V[0] is that header alone, a
	// copy; the rest is guest RAM that the guest may change at any time. H asks
	// for nothing that was not agreed and points into the frame; what the frame
	// says is not checked. Both are valid until Receive returns, so the host
	// copies what it keeps. It is called on the goroutine of the pair, and must
	// not block for long.
	Receive(q int, h *Header, v [][]byte)
	// Ready says that a driver listens on pair q since now, that it made buffers
	// available after a Send that returned [Full], or that [Device.Offloads]
	// changed. It is called on the goroutine of the pair. There may be no room
	// all the same.
	Ready(q int)
}

// Waiter is implemented by a [Host] that has more to wait for than the guest.
type Waiter interface {
	// Await replaces bell.Wait on the goroutine of pair q. It returns true when there
	// may be something to do for the pair, at the latest once the bell was rung since
	// the last call, and false when the bell cannot be waited for any more. Meanwhile it
	// may do other things there, a little at a time. Without block, there is something
	// to do for the pair already, and it waits for nothing.
	Await(q int, bell *virtio.Doorbell, block bool) bool
}

// Config describes a device.
type Config struct {
	MAC       [6]byte  // the guest's address, the only one it may send from; unicast
	MTU       int      // bytes of an IP packet, 68 to 65535; 0 means 1500
	Queues    int      // queue pairs, 1 to 64; 0 means 1
	QueueSize uint16   // descriptors per queue, a power of two from 32 to 1024; 0 means 256
	FromGuest Offloads // what the guest may leave to the host; all but OffloadCsum need that one
	ToGuest   Offloads // what the host may want to leave to the guest; likewise
	Host      Host     // the other end; required; it may be a [Waiter]
	// Log receives which frames of the guest were dropped and why, at a bounded
	// rate. Any goroutine may call it. nil means silence.
	Log func(format string, args ...any)
}

const (
	defaultMTU       = 1500
	minMTU           = 68 // §5.1.4.1
	maxMTU           = 65535
	maxPairs         = 64
	defaultQueueSize = 256
	minQueueSize     = 32 // Linux needs 19 descriptors for a frame
	maxQueueSize     = 1024
	controlSize      = 64
)

func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueSize == 0 {
		c.QueueSize = defaultQueueSize
	}
	switch n := c.QueueSize; {
	case c.Host == nil:
		return errors.New("net: there is no host at the other end")
	case c.MAC == [6]byte{} || c.MAC[0]&1 != 0:
		return fmt.Errorf("net: MAC address %x: want a unicast one", c.MAC)
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("net: MTU of %d bytes: want %d to %d", c.MTU, minMTU, maxMTU)
	case c.Queues < 1 || c.Queues > maxPairs:
		return fmt.Errorf("net: %d queue pairs: want 1 to %d", c.Queues, maxPairs)
	case n < minQueueSize || n > maxQueueSize || n&(n-1) != 0:
		return fmt.Errorf("net: queue size %d: want a power of two from %d to %d", n, minQueueSize, maxQueueSize)
	case c.FromGuest != c.FromGuest.sane() || c.ToGuest != c.ToGuest.sane():
		return errors.New("net: segmentation is offloaded without checksums: add OffloadCsum")
	case (c.FromGuest|c.ToGuest)&^AllOffloads != 0:
		return fmt.Errorf("net: offloads %#x and %#x: some are unknown", uint32(c.FromGuest), uint32(c.ToGuest))
	}
	return nil
}

// Device is a virtio network device. It implements [virtio.Device] and
// [virtio.QueueEventer].
type Device struct {
	cfg      Config
	waiter   Waiter // cfg.Host, if it is one
	maxFrame int    // bytes of a frame that is not segmented
	config   [configSize]byte
	pairs    []*pair
	limit    virtio.LogLimit

	commands, refused atomic.Uint64
	offloads          atomic.Uint32 // Offloads that the driver takes now
	listening         atomic.Uint32 // pairs that it listens on

	// Set by Activate, and constant until Reset.
	irq       virtio.Interrupter
	features  virtio.Features
	fromGuest Offloads

	stop    atomic.Bool    // tells the goroutines to return
	running sync.WaitGroup // those of the current activation
}

// New returns a device.
func New(cfg Config) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, maxFrame: cfg.MTU + ethSize}
	d.waiter, _ = cfg.Host.(Waiter)
	for i := range cfg.Queues {
		bell, err := virtio.NewDoorbell()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("net: queue pair %d: %w", i, err), d.Close())
		}
		d.pairs = append(d.pairs, &pair{dev: d, index: i, bell: bell})
	}
	d.config = d.buildConfig()
	return d, nil
}

// Close stops the device for good and frees the doorbells, which the hypervisor
// must have let go of. Sending is harmless afterwards. Closing twice is, too.
func (d *Device) Close() error {
	errs := []error{d.Reset()}
	for _, p := range d.pairs {
		errs = append(errs, p.bell.Close())
	}
	return errors.Join(errs...)
}

// Offloads is what the guest's driver takes now: what Send may ask for. It is
// empty while no driver listens. Host.Ready announces changes; a frame that is
// sent in spite of one is refused. Any goroutine may call it.
func (d *Device) Offloads() Offloads { return Offloads(d.offloads.Load()) }

// Pairs is how many queue pairs the driver listens on now, from the first: Send
// to another says [Down]. It is 0 while there is no driver. Replies belong to the
// pair that the flow's frames come from (§5.1.6.5.6). Any goroutine may call it.
func (d *Device) Pairs() int { return int(d.listening.Load()) }

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDNet }

// QueueSizes implements [virtio.Device].
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, 2*len(d.pairs)+1)
	for i := range sizes {
		sizes[i] = d.cfg.QueueSize
	}
	sizes[len(sizes)-1] = min(controlSize, d.cfg.QueueSize)
	return sizes
}

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int {
	fds := make([]int, 2*len(d.pairs)+1)
	for i := range fds {
		fds[i] = d.pairs[d.owner(i)].bell.FD()
	}
	return fds
}

// Notify implements [virtio.Device].
func (d *Device) Notify(q int) { d.pairs[d.owner(q)].bell.Ring() }
