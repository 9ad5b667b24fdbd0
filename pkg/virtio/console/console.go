// Package console is the virtio console (virtio 1.3 §5.3) with its one port,
// Linux's hvc0.
//
// Output never waits for whoever reads it, and no more of it than the backlog is
// kept; input waits for the guest in a buffer of fixed size.
package console

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const ( // §5.3.2
	receiveq  = 0
	transmitq = 1
	queues    = 2
	queueSize = 64
)

const featureSize virtio.Features = 1 << 0 // §5.3.3: the configuration holds the size

const ( // §5.3.4: offsets in struct virtio_console_config
	cfgCols    = 0 // le16
	cfgRows    = 2 // le16
	configSize = 12
)

const (
	// DefaultBacklog is how much output is kept for a slow reader, in bytes.
	DefaultBacklog = 256 << 10
	inputSize      = 64 << 10
	minBacklog     = 4 << 10
)

// Config is how a device works. The zero value is the default.
type Config struct {
	Backlog    int    // bytes of output kept for a slow reader, at least 4096; 0 means DefaultBacklog
	Cols, Rows uint16 // size of the terminal; 0 means unknown
}

// Device is a virtio console.
type Device struct {
	bell *virtio.Doorbell // of both queues
	out  *sink
	in   *input

	life    sync.Mutex // serialises Activate, Reset and Close; taken before mu
	stop    chan struct{}
	stopped chan struct{}

	mu         sync.Mutex // guards what follows
	cols, rows uint16
	irq        virtio.Interrupter // not nil while a driver wants to hear of the size

	chain queue.Chain // the goroutine's own while it runs
}

// New returns a device that passes the guest's output on to out. Writes to out
// come from one goroutine; after one fails, out is left alone.
func New(out io.Writer, c Config) (*Device, error) {
	if c.Backlog == 0 {
		c.Backlog = DefaultBacklog
	}
	if c.Backlog < minBacklog {
		return nil, fmt.Errorf("console: backlog of %d bytes: want at least %d", c.Backlog, minBacklog)
	}
	bell, err := virtio.NewDoorbell()
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return &Device{bell: bell, out: newSink(out, c.Backlog), in: newInput(inputSize), cols: c.Cols, rows: c.Rows}, nil
}

// Close stops input and hands out what is left of the output; it gives up after
// a second if nobody takes it. The device must be reset, and the hypervisor must
// have let go of its eventfd.
func (d *Device) Close() error {
	_ = d.Reset() // cannot fail
	d.life.Lock()
	defer d.life.Unlock()
	d.in.close()
	d.out.close()
	return d.bell.Close()
}

// Write types p: it returns once all of it is in the input buffer, and waits for
// the guest to make room. After Close it fails with [io.ErrClosedPipe], also if it
// was waiting. Any goroutine may call it.
func (d *Device) Write(p []byte) (int, error) { return d.in.write(p, d.bell.Ring) }

// Resize tells the guest the size of the terminal. Any goroutine may call it.
func (d *Device) Resize(cols, rows uint16) {
	d.mu.Lock()
	changed, irq := d.cols != cols || d.rows != rows, d.irq
	d.cols, d.rows = cols, rows
	d.mu.Unlock()
	if changed && irq != nil {
		irq.ConfigChanged()
	}
}

// Dropped is the number of bytes of output that nobody took in time.
func (d *Device) Dropped() uint64 { return d.out.droppedBytes() }

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDConsole }

// Features implements [virtio.Device].
func (d *Device) Features() virtio.Features { return featureSize }

// QueueSizes implements [virtio.Device].
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int { return []int{d.bell.FD(), d.bell.FD()} }

// ReadConfig implements [virtio.Device].
func (d *Device) ReadConfig(p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// max_nr_ports and emerg_wr belong to features not offered.
	binary.LittleEndian.PutUint16(p[cfgCols:], d.cols)
	binary.LittleEndian.PutUint16(p[cfgRows:], d.rows)
}

// WriteConfig implements [virtio.Device]. All fields are read-only.
func (d *Device) WriteConfig([]byte, uint32) {}

// Notify implements [virtio.Device].
func (d *Device) Notify(int) { d.bell.Ring() }

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	d.life.Lock()
	defer d.life.Unlock()
	if a.Features.Has(featureSize) {
		d.setIRQ(a.IRQ)
	}
	d.stop, d.stopped = make(chan struct{}), make(chan struct{})
	p := port{d: d, rx: a.Queues[receiveq], tx: a.Queues[transmitq], irq: a.IRQ, stop: d.stop}
	go p.run(d.stopped)
	return nil
}

// Reset implements [virtio.Device]. Input that the guest did not take is lost.
func (d *Device) Reset() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.setIRQ(nil)
	if d.stop == nil {
		return nil
	}
	close(d.stop)
	d.bell.Ring()
	<-d.stopped
	d.stop, d.stopped = nil, nil
	d.in.drop()
	return nil
}

func (d *Device) setIRQ(irq virtio.Interrupter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.irq = irq
}
