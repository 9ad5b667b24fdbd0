// Package vsock is the virtio socket device (virtio 1.3 §5.10): stream
// connections between programs in the guest and this process, or any socket that
// this process hands over.
//
// The whole host side lives here. [Device.Dial] and [Device.Listen] give
// connections for this process to read and write; [Conn.Splice] ties one to a
// host socket, from where bytes go straight into the guest's buffers and back
// without a copy in between.
//
// One goroutine per device waits for the guest's doorbell and for all spliced
// sockets at once. A single lock guards the device: callers of Read and Write
// work the queues themselves rather than wake that goroutine. Nothing polls, and
// nothing is allocated per packet.
//
// The guest is an attacker. What the device holds for it is bounded: connections
// by Config.MaxConns, bytes per connection by Config.Buffer, replies to strangers
// by a constant. Bytes for the guest are never held here at all; a guest that does
// not read stops whoever writes.
package vsock

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	// HostCID is the address of this side (§5.10.4).
	HostCID = 2
	// DefaultGuestCID is the guest's address unless configured.
	DefaultGuestCID = 3
)

const featureStream virtio.Features = 1 // VIRTIO_VSOCK_F_STREAM (§5.10.3)

const ( // §5.10.2
	queueRX    = 0 // to the guest
	queueTX    = 1 // from the guest
	queueEvent = 2
	queues     = 3
)

// Config describes a device; zero fields mean the defaults.
type Config struct {
	// GuestCID is the guest's address, 3 to 2^32-2; default 3 (§5.10.4).
	GuestCID uint64
	// MaxConns bounds connections in any state, half-open ones included; default 4096.
	MaxConns int
	// Buffer is how many bytes of each connection the device holds for a slow
	// reader on the host, the buf_alloc of §5.10.6.3; default 256 KiB, 4 KiB to 16 MiB.
	Buffer int
	// CloseTimeout is how long a closed connection waits for the guest's
	// consent before it is reset (§5.10.6.5); default 8 s.
	CloseTimeout time.Duration
}

func (c *Config) check() error {
	if c.GuestCID == 0 {
		c.GuestCID = DefaultGuestCID
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.Buffer == 0 {
		c.Buffer = 256 << 10
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = 8 * time.Second
	}
	switch {
	case c.GuestCID <= HostCID || c.GuestCID >= 0xffffffff: // §5.10.4: reserved, and the upper half is zero
		return fmt.Errorf("vsock: guest CID %d: choose 3 to 4294967294", c.GuestCID)
	case c.MaxConns < 0:
		return fmt.Errorf("vsock: %d connections at most", c.MaxConns)
	case c.Buffer < 4<<10 || c.Buffer > 16<<20:
		return fmt.Errorf("vsock: buffer of %d bytes: choose 4 KiB to 16 MiB", c.Buffer)
	case c.CloseTimeout < 0:
		return fmt.Errorf("vsock: close timeout %v", c.CloseTimeout)
	}
	return nil
}

// Device is a virtio socket device. It implements [virtio.Device] and
// [virtio.QueueEventer]. All methods may be called from any goroutine.
type Device struct {
	cfg    Config
	poll   poller
	events []int
	count  counters

	// mu guards what follows and all of each connection, the queues included.
	// Nobody blocks while holding it: sockets never block, and the interrupter
	// does not either.
	mu        sync.Mutex
	conns     map[uint64]*Conn     // by portKey: those that packets can belong to
	listeners map[uint32]*Listener // by port
	nextPort  uint32               // where the search for a free port of ours starts
	open      int                  // connections that hold resources, in conns or not
	slots     slots                // spliced connections, for the poller
	closed    bool

	live     bool // active, and the driver has not broken a queue
	stopping bool
	done     chan struct{} // closed when the loop has ended; nil while inactive
	irq      virtio.Interrupter
	rx       rxQueue
	tx       txQueue
	ev       *queue.Queue
	evChain  queue.Chain
	resetDue bool // the guest is to be told of a transport reset
	run      runList
	strays   strays
	spare    [][]byte // whole receive buffers for the next slow reader
	iov      [][]byte // scratch
	out      gathered
	vec      *vector
}

// New returns a device. The caller closes it after the VM is gone.
func New(cfg Config) (*Device, error) { return newDevice(cfg, newPoller) }

func newDevice(cfg Config, newPoller func() (poller, error)) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p, err := newPoller()
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	d := &Device{
		cfg: cfg, poll: p,
		events:    make([]int, queues),
		conns:     make(map[uint64]*Conn),
		listeners: make(map[uint32]*Listener),
		// A guest that outlives this process would mistake a port used again for an old connection.
		nextPort: minDialPort + rand.Uint32N(maxDialPort-minDialPort),
	}
	for i := range d.events {
		d.events[i] = p.bell()
	}
	return d, nil
}

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDVsock }

// Features implements [virtio.Device].
func (d *Device) Features() virtio.Features { return featureStream }

// QueueSizes implements [virtio.Device]. The guest keeps the receive queue full
// of pages, 1 MiB of its RAM: that is what one connection's window takes on
// Linux, four times over. Linux uses 8 events.
func (d *Device) QueueSizes() []uint16 { return []uint16{256, 256, 64} }

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int { return d.events }

// ReadConfig implements [virtio.Device]: struct virtio_vsock_config (§5.10.4).
func (d *Device) ReadConfig(p []byte) { binary.LittleEndian.PutUint64(p, d.cfg.GuestCID) }

// WriteConfig implements [virtio.Device]: nothing is writable.
func (d *Device) WriteConfig([]byte, uint32) {}

// Notify implements [virtio.Device].
func (d *Device) Notify(int) { d.poll.wake() }

// portKey names a connection: with one guest, both CIDs are known.
func portKey(host, guest uint32) uint64 { return uint64(host)<<32 | uint64(guest) }
