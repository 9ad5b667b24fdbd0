package rng

import (
	"os"

	"golang.org/x/sys/unix"
)

// random fills b, in place, from the kernel's generator (getrandom(2)).
func random(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Getrandom(b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("getrandom", err)
		}
		b = b[n:]
	}
	return nil
}
