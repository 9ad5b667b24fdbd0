package blk

import (
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vecMax is the number of buffers of one system call. The array lives on the stack,
// where x/sys's own would be allocated, and is cleared for each call. And Linux 6.12
// looks at all that is left of a vector for every page that it writes to a tmpfs.
const vecMax = 32

// read fills the next n bytes from an offset of a file and moves on.
func (c *cursor) read(f *os.File, n int, off int64) error {
	return c.transfer(unix.SYS_PREADV, "preadv", f, n, off)
}

// write stores the next n bytes at an offset of a file and moves on.
func (c *cursor) write(f *os.File, n int, off int64) error {
	return c.transfer(unix.SYS_PWRITEV, "pwritev", f, n, off)
}

func (c *cursor) transfer(nr uintptr, name string, f *os.File, n int, off int64) error {
	fd := f.Fd()
	for n > 0 {
		var iov [vecMax]unix.Iovec
		k := c.fill(&iov, n)
		// SAFETY: the first k elements point at buffers that c.v keeps alive; the
		// kernel reads iov during the call only. The offset is passed in two
		// halves, of which 64-bit kernels use the first.
		got, _, errno := unix.Syscall6(nr, fd, uintptr(unsafe.Pointer(&iov)), uintptr(k), uintptr(off), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return os.NewSyscallError(name, errno)
		case got == 0:
			return io.ErrUnexpectedEOF
		}
		c.advance(int(got))
		n -= int(got)
		off += int64(got)
	}
	return nil
}

// fill describes the next n bytes, or as many of them as fit.
func (c *cursor) fill(iov *[vecMax]unix.Iovec, n int) (k int) {
	skip := c.skip
	for _, b := range c.v {
		if n == 0 || k == vecMax {
			break
		}
		b = b[skip:]
		b = b[:min(n, len(b))]
		iov[k].Base = unsafe.SliceData(b)
		iov[k].SetLen(len(b))
		n -= len(b)
		skip = 0
		k++
	}
	return k
}
