// Package blk is the virtio block device (virtio 1.3 §5.2): raw disks only, read
// and written straight from and to guest RAM.
//
// Each queue has one goroutine, which serves requests in order; queues are
// independent of one another and of every vCPU. What a disk contains is never
// interpreted: a guest that writes another format's header into its disk still
// has a raw disk.
package blk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio"
)

// Backend holds the bytes of a disk. Its methods may be called from several
// goroutines at once, and block as long as the disk takes.
type Backend interface {
	// Size is the number of bytes, which does not change.
	Size() int64
	// ReadOnly says that the methods that change the disk will fail.
	ReadOnly() bool
	// ReadVec fills all of v from an offset, or returns an error. The device
	// asks for ranges within Size only. It does not change or keep v.
	ReadVec(v [][]byte, off int64) error
	// WriteVec stores all of v at an offset, under the same rules.
	WriteVec(v [][]byte, off int64) error
	// Flush makes all that was written before durable.
	Flush() error
	// Discard says that n bytes are not needed any more; they may read as anything.
	Discard(off, n int64) error
	// WriteZeroes makes n bytes read as zero; unmap says that they need no space.
	WriteZeroes(off, n int64, unmap bool) error
	// Close frees the disk. No other call may be under way.
	Close() error
}

// Config is how a device presents itself. The zero value is a device with one queue.
type Config struct {
	Queues    int    // request queues, 1 to 64; 0 means 1
	QueueSize uint16 // descriptors per queue, a power of two from 4 to 1024; 0 means 128
	Serial    string // what the guest shows as the disk's serial; at most 20 bytes (§5.2.6)
	// Log receives what the host's disk refused to do, at a bounded rate. Any
	// goroutine may call it. nil means silence.
	Log func(format string, args ...any)
}

const (
	defaultQueueSize = 128
	maxQueues        = 64
	maxQueueSize     = 1024
	minQueueSize     = 4 // header, one segment, status
	serialSize       = 20
)

// Counters say what a device did since it was made.
type Counters struct {
	Requests   uint64 // all of them
	ReadBytes  uint64
	WroteBytes uint64
	Flushes    uint64
	Failed     uint64 // requests answered with an error
	HostErrors uint64 // those of them that the host's disk is to blame for
}

// Device is a virtio block device.
type Device struct {
	disk    Backend
	cfg     Config
	sectors uint64
	config  [configSize]byte
	workers []*worker
	count   struct{ requests, read, wrote, flushes, failed, host atomic.Uint64 }
	limit   virtio.LogLimit

	stop    atomic.Bool    // tells the workers to return
	running sync.WaitGroup // workers of the current activation
}

// New returns a device for a disk, which it closes in Close, also when New fails.
func New(disk Backend, cfg Config) (_ *Device, err error) {
	d := &Device{disk: disk, cfg: cfg, sectors: uint64(disk.Size()) / sectorSize}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.cfg.Queues == 0 {
		d.cfg.Queues = 1
	}
	if d.cfg.QueueSize == 0 {
		d.cfg.QueueSize = defaultQueueSize
	}
	switch n := d.cfg.QueueSize; {
	case d.cfg.Queues < 1 || d.cfg.Queues > maxQueues:
		return nil, fmt.Errorf("blk: %d queues: want 1 to %d", cfg.Queues, maxQueues)
	case n < minQueueSize || n > maxQueueSize || n&(n-1) != 0:
		return nil, fmt.Errorf("blk: queue size %d: want a power of two from %d to %d", n, minQueueSize, maxQueueSize)
	case len(cfg.Serial) > serialSize:
		return nil, fmt.Errorf("blk: serial %q is longer than %d bytes", cfg.Serial, serialSize)
	}
	for i := range d.cfg.Queues {
		bell, err := virtio.NewDoorbell()
		if err != nil {
			return nil, fmt.Errorf("blk: queue %d: %w", i, err)
		}
		d.workers = append(d.workers, &worker{dev: d, index: i, bell: bell})
	}
	d.config = d.buildConfig()
	return d, nil
}

// Close frees the disk and the doorbells. The device must be reset, and the
// hypervisor must have let go of its eventfds.
func (d *Device) Close() error {
	errs := []error{d.Reset()}
	for _, w := range d.workers {
		errs = append(errs, w.bell.Close())
	}
	d.workers = nil
	if d.disk != nil {
		errs = append(errs, d.disk.Close())
		d.disk = nil
	}
	return errors.Join(errs...)
}

// Counters returns what happened so far. Any goroutine may call it.
func (d *Device) Counters() Counters {
	c := &d.count
	return Counters{c.requests.Load(), c.read.Load(), c.wrote.Load(), c.flushes.Load(), c.failed.Load(), c.host.Load()}
}

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDBlock }

// QueueSizes implements [virtio.Device].
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, d.cfg.Queues)
	for i := range sizes {
		sizes[i] = d.cfg.QueueSize
	}
	return sizes
}

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int {
	fds := make([]int, len(d.workers))
	for i, w := range d.workers {
		fds[i] = w.bell.FD()
	}
	return fds
}

// Notify implements [virtio.Device].
func (d *Device) Notify(q int) { d.workers[q].bell.Ring() }

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	d.stop.Store(false)
	for i, w := range d.workers {
		if a.Queues[i] == nil {
			continue
		}
		w.queue, w.irq, w.features = a.Queues[i], a.IRQ, a.Features
		d.running.Add(1)
		go w.run()
	}
	return nil
}

// Reset implements [virtio.Device]. It waits for the requests under way, for as
// long as the host's disk takes.
func (d *Device) Reset() error {
	d.stop.Store(true)
	for _, w := range d.workers {
		w.bell.Ring()
	}
	d.running.Wait()
	return nil
}
