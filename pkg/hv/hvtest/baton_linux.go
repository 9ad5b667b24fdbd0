package hvtest

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// baton hands a turn from one thread to another. It goes round Go's scheduler,
// which on a host with one CPU needs the time slices of a spinning guest to
// notice that a goroutine became ready.
type baton int

func newBaton(t *testing.T) baton {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return baton(fd)
}

func (b baton) pass() error {
	_, err := unix.Write(int(b), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return os.NewSyscallError("write", err)
}

func (b baton) wait() error {
	var p [8]byte
	for {
		_, err := unix.Read(int(b), p[:])
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("read", err)
		}
	}
}

// urgent makes the calling goroutine's thread preempt a guest as soon as it is
// ready, where the user may; the thread ends with the goroutine. Elsewhere the
// tests only take longer.
func urgent() {
	runtime.LockOSThread()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}
