package virtio

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Doorbell wakes the goroutine that serves a device's queues. It is an eventfd,
// so that the hypervisor can ring it without an exit to the VMM (KVM API §4.59).
// It lives as long as its device, across resets.
type Doorbell struct{ fd int }

// NewDoorbell returns a silent doorbell.
func NewDoorbell() (*Doorbell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("virtio: doorbell: %w", os.NewSyscallError("eventfd2", err))
	}
	return &Doorbell{fd}, nil
}

// FD is the eventfd for [QueueEventer], or -1 on systems that have none.
func (b *Doorbell) FD() int { return b.fd }

// Ring wakes the goroutine in Wait, now or on its next call; rings before that
// may merge. It does not block, and any goroutine may call it.
func (b *Doorbell) Ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// A write blocks only once 2^64-2 rings were not collected.
	for {
		if _, err := unix.Write(b.fd, one[:]); err != unix.EINTR {
			return
		}
	}
}

// Wait blocks until the bell was rung since the last Wait. It returns false when
// the bell cannot be waited for any more. One goroutine at a time.
func (b *Doorbell) Wait() bool {
	var n [8]byte
	for {
		// A plain read parks one thread per queue, and wakes without a detour
		// through the Go poller's own thread.
		if _, err := unix.Read(b.fd, n[:]); err != unix.EINTR {
			return err == nil
		}
	}
}

// Close frees the eventfd. Nobody may be in Ring or Wait, and the hypervisor
// must have let go of it.
func (b *Doorbell) Close() error {
	if b.fd < 0 {
		return nil
	}
	fd := b.fd
	b.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}
