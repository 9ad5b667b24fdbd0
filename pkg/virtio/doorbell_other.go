//go:build !linux

package virtio

// Doorbell wakes the goroutine that serves a device's queues. It lives as long
// as its device, across resets.
type Doorbell struct{ rung chan struct{} }

// NewDoorbell returns a silent doorbell.
func NewDoorbell() (*Doorbell, error) { return &Doorbell{make(chan struct{}, 1)}, nil }

// FD is the eventfd for [QueueEventer], or -1 on systems that have none.
func (b *Doorbell) FD() int { return -1 }

// Ring wakes the goroutine in Wait, now or on its next call; rings before that
// may merge. It does not block, and any goroutine may call it.
func (b *Doorbell) Ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

// Wait blocks until the bell was rung since the last Wait. It returns false when
// the bell cannot be waited for any more. One goroutine at a time.
func (b *Doorbell) Wait() bool {
	<-b.rung
	return true
}

// Close frees the doorbell. Nobody may be in Ring or Wait.
func (b *Doorbell) Close() error { return nil }
