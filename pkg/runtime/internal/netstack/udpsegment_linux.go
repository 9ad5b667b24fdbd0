package netstack

import "golang.org/x/sys/unix"

const (
	// segmentsMost is how many datagrams Linux makes of what is written (UDP_MAX_SEGMENTS;
	// twice as many since 6.9), and segmentedMost how many bytes may be written.
	segmentsMost  = 64
	segmentedMost = 65535 - 40 - 8
)

// segmentBy has a socket make datagrams of so many bytes of what is written (udp(7),
// UDP_SEGMENT), and the kernel take them for one as far as it can.
func segmentBy(fd, each int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, each)
}
