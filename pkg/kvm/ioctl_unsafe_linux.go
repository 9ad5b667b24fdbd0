//go:build amd64

package kvm

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cmd is an ioctl: its number and the C name that errors carry.
type cmd struct {
	nr   uintptr
	name string
}

// ioctlPtr passes a structure. KVM_RUN has a path of its own, where EINTR is a result.
func ioctlPtr[T any](fd int, c cmd, arg *T) (int, error) {
	for {
		// SAFETY: arg is live for the call, and the size of T is the one that c
		// encodes (or begins with, for the structures that end in an array):
		// TestABISizes.
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), c.nr, uintptr(unsafe.Pointer(arg)))
		switch e {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError(c.name, e)
		}
	}
}

// ioctlBrief is ioctlPtr for what never waits, so that the scheduler need not hear
// of it: that costs as much as the call.
func ioctlBrief[T any](fd int, c cmd, arg *T) error {
	// SAFETY: as in ioctlPtr.
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), c.nr, uintptr(unsafe.Pointer(arg)))
	if e == 0 {
		return nil
	}
	return os.NewSyscallError(c.name, e)
}

// ioctlInt passes a number and returns what the kernel answers.
func ioctlInt(fd int, c cmd, arg uintptr) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), c.nr, arg)
		switch e {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError(c.name, e)
		}
	}
}

// hostAddress is the userspace_addr of a memory slot.
func hostAddress(b []byte) uint64 {
	// SAFETY: only the address is taken. The memory is a mapping outside the Go
	// heap, which hv.VM.Map requires to stay until Unmap or Close.
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}
