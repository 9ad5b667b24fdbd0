package blk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const openNonblock = unix.O_NONBLOCK

// lock takes an open file description lock on the whole file (fcntl(2)).
func lock(f *os.File, write bool) error {
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if write {
		l.Type = unix.F_WRLCK
	}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return ErrInUse
	case err != nil:
		return fmt.Errorf("lock: %w", os.NewSyscallError("fcntl F_OFD_SETLK", err))
	}
	return nil
}

func datasync(f *os.File) error {
	return retry("fdatasync", func() error { return unix.Fdatasync(int(f.Fd())) })
}

func punchHole(f *os.File, off, n int64) error {
	return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func zeroRange(f *os.File, off, n int64) error {
	return fallocate(f, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func fallocate(f *os.File, mode uint32, off, n int64) error {
	return retry("fallocate", func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) })
}

func retry(name string, call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return os.NewSyscallError(name, err)
		}
	}
}
