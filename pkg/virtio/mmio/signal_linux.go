package mmio

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// signal adds one to an eventfd. It blocks only at 2^64-2, which one-by-one
// notifications do not reach.
func signal(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		if _, err := unix.Write(fd, one[:]); err != unix.EINTR {
			return
		}
	}
}
