//go:build amd64

package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// dequeueSignal takes one pending signal of the set, without waiting, and
// reports whether there was one.
func dequeueSignal(set *uint64) bool {
	var now unix.Timespec
	for {
		// SAFETY: set and now are live for the call, and 8 is the size of the
		// kernel's sigset_t. Raw, because a call with no time to wait returns at once.
		_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(set)), 0,
			uintptr(unsafe.Pointer(&now)), 8, 0, 0)
		if e != unix.EINTR {
			return e == 0
		}
	}
}
