package vsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectors is how many buffers one system call takes. A receive buffer of Linux
// is one page, and x/sys allocates beyond eight.
const vectors = 64

// vector moves bytes between a nonblocking socket and several buffers.
type vector struct{ iov [vectors]unix.Iovec }

// read fills the buffers in order, the first of them at least.
func (v *vector) read(fd int, bufs [][]byte) (int, error) {
	return v.call(unix.SYS_READV, fd, bufs)
}

// write takes from the buffers in order.
func (v *vector) write(fd int, bufs [][]byte) (int, error) {
	return v.call(unix.SYS_WRITEV, fd, bufs)
}

func (v *vector) call(nr uintptr, fd int, bufs [][]byte) (int, error) {
	bufs = bufs[:min(len(bufs), vectors)]
	for i, b := range bufs {
		v.iov[i].Base = unsafe.SliceData(b)
		v.iov[i].SetLen(len(b))
	}
	for {
		// SAFETY: the first len(bufs) entries describe live slices, and v lives on
		// the heap for the call; the kernel keeps no reference.
		n, _, err := unix.Syscall(nr, uintptr(fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(bufs)))
		if err == 0 {
			return int(n), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}
