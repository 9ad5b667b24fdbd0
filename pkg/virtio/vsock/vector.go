package vsock

import "golang.org/x/sys/unix"

// vectors is how many buffers one system call takes without allocation.
const vectors = 8

// readv reads from a nonblocking socket.
func readv(fd int, v [][]byte) (int, error) {
	for {
		n, err := unix.Readv(fd, v[:min(len(v), vectors)])
		if err != unix.EINTR {
			return n, err
		}
	}
}

// writev writes to a nonblocking socket.
func writev(fd int, v [][]byte) (int, error) {
	for {
		n, err := unix.Writev(fd, v[:min(len(v), vectors)])
		if err != unix.EINTR {
			return n, err
		}
	}
}
