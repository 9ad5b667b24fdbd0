// Package rng is the virtio entropy device (virtio 1.3 §5.4): random bytes of
// the host's kernel, straight into guest RAM.
//
// What one request gets is capped and the rate is limited, so that a guest
// cannot turn it into a load on the host.
package rng

import (
	"fmt"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	queueSize  = 64
	maxRequest = 64 << 10 // bytes that one request gets at most (§5.4.6.2 allows fewer than asked)
	burst      = 4 * maxRequest
)

// DefaultRate is the number of bytes a second that a guest gets in the long run.
const DefaultRate = 4 << 20

// Config is how a device works. The zero value is the default.
type Config struct {
	Rate int // bytes a second in the long run, at least 64 KiB; 0 means DefaultRate
}

// Device is a virtio entropy device.
type Device struct {
	rate int
	bell *virtio.Doorbell

	mu      sync.Mutex // serialises Activate, Reset and Close
	stop    chan struct{}
	stopped chan struct{}

	chain queue.Chain // the goroutine's own while it runs
	spent budget
}

// New returns a device.
func New(c Config) (*Device, error) {
	if c.Rate == 0 {
		c.Rate = DefaultRate
	}
	if c.Rate < maxRequest {
		return nil, fmt.Errorf("rng: rate of %d bytes a second: want at least %d", c.Rate, maxRequest)
	}
	bell, err := virtio.NewDoorbell()
	if err != nil {
		return nil, fmt.Errorf("rng: %w", err)
	}
	return &Device{rate: c.Rate, bell: bell, spent: budget{rate: c.Rate}}, nil
}

// Close frees the doorbell. The device must be reset, and the hypervisor must
// have let go of its eventfd.
func (d *Device) Close() error {
	_ = d.Reset() // cannot fail
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bell.Close()
}

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDEntropy }

// Features implements [virtio.Device]. There are none (§5.4.3).
func (d *Device) Features() virtio.Features { return 0 }

// QueueSizes implements [virtio.Device].
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int { return []int{d.bell.FD()} }

// ReadConfig implements [virtio.Device]. There is no configuration (§5.4.4).
func (d *Device) ReadConfig([]byte) {}

// WriteConfig implements [virtio.Device].
func (d *Device) WriteConfig([]byte, uint32) {}

// Notify implements [virtio.Device].
func (d *Device) Notify(int) { d.bell.Ring() }

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.Queues[0] == nil {
		return nil
	}
	d.stop, d.stopped = make(chan struct{}), make(chan struct{})
	go d.run(a.Queues[0], a.IRQ, d.stop, d.stopped)
	return nil
}

// Reset implements [virtio.Device].
func (d *Device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop == nil {
		return nil
	}
	close(d.stop)
	d.bell.Ring()
	<-d.stopped
	d.stop, d.stopped = nil, nil
	return nil
}

func (d *Device) run(q *queue.Queue, irq virtio.Interrupter, stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	for {
		err := d.serve(q, irq, stop)
		if q.NeedInterrupt() {
			irq.Used(0)
		}
		if err != nil {
			irq.NeedsReset(err)
			return
		}
		if ended(stop) || !d.bell.Wait() {
			return
		}
	}
}

func ended(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// serve works until the queue is empty and the next request will ring the bell,
// or until stop.
func (d *Device) serve(q *queue.Queue, irq virtio.Interrupter, stop <-chan struct{}) error {
	for {
		q.DisableNotify()
		for {
			if ended(stop) {
				return nil
			}
			if wait := d.spent.wait(time.Now()); wait > 0 {
				if q.NeedInterrupt() { // what is done need not wait
					irq.Used(0)
				}
				t := time.NewTimer(wait)
				select {
				case <-stop:
				case <-t.C:
				}
				t.Stop()
				continue
			}
			ok, err := q.Pop(&d.chain)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			n, err := fill(d.chain.Writable)
			if err != nil {
				return err
			}
			d.spent.take(n)
			if err := q.Push(d.chain.Head, uint32(n)); err != nil {
				return err
			}
		}
		if more, err := q.EnableNotify(); !more {
			return err
		}
	}
}

// fill stores random bytes in a request's buffers and returns how many.
func fill(v [][]byte) (int, error) {
	n := queue.Len(v)
	if n == 0 { // §5.4.6.1
		return 0, &virtio.DriverError{Dev: virtio.IDEntropy, Section: "5.4.6.1", Detail: "request has no room for an answer"}
	}
	n = min(n, maxRequest)
	for _, b := range queue.Prefix(v, n) {
		if err := random(b); err != nil {
			return 0, fmt.Errorf("rng: %w", err)
		}
	}
	return n, nil
}

// budget is a token bucket of bytes.
type budget struct {
	rate int // bytes a second
	debt int // bytes taken and not earned back yet
	at   time.Time
}

// wait earns what time brought, and returns how long to wait for the next request.
func (b *budget) wait(now time.Time) time.Duration {
	// Requests are capped, so that the debt stays below 2*burst and the product small.
	if passed := now.Sub(b.at); passed > time.Second {
		b.debt, b.at = max(0, b.debt-b.rate), now
	} else if back := int(int64(b.rate) * int64(passed) / int64(time.Second)); back > 0 {
		b.debt, b.at = max(0, b.debt-back), now
	}
	if b.debt < burst {
		return 0
	}
	return time.Duration(int64(b.debt-burst+maxRequest) * int64(time.Second) / int64(b.rate))
}

func (b *budget) take(n int) { b.debt += max(n, 64) } // a request has a price of its own
