package machine

import (
	"os"

	"golang.org/x/sys/unix"
)

// eventLine is an eventfd that is only ever written.
type eventLine struct{ fd int }

func (l *eventLine) open() (err error) {
	l.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return os.NewSyscallError("eventfd2", err)
}

// one is package-level so that the write does not move it to the heap.
var one = [8]byte{1}

func (l *eventLine) signal() {
	// EAGAIN means that the counter is full, and so the signal already pending.
	_, _ = unix.Write(l.fd, one[:])
}

func (l *eventLine) close() error {
	if l.fd < 0 {
		return nil
	}
	fd := l.fd
	l.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}
