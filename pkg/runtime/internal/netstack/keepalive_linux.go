package netstack

import "golang.org/x/sys/unix"

// keepAlive sets when a far end that says nothing is asked whether it is there.
func keepAlive(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, hostKeepIdle)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, hostKeepInterval)
}
