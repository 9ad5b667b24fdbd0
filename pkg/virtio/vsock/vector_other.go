//go:build !linux

package vsock

import "golang.org/x/sys/unix"

// vector moves bytes between a nonblocking socket and several buffers.
type vector struct{}

// vectors is how many buffers one system call takes without allocation.
const vectors = 8

func (*vector) read(fd int, bufs [][]byte) (int, error) {
	for {
		n, err := unix.Readv(fd, bufs[:min(len(bufs), vectors)])
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (*vector) write(fd int, bufs [][]byte) (int, error) {
	for {
		n, err := unix.Writev(fd, bufs[:min(len(bufs), vectors)])
		if err != unix.EINTR {
			return n, err
		}
	}
}
