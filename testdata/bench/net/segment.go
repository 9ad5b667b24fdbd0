package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// segment has a socket make datagrams of so many bytes of what is written, as programs
// that speak QUIC do (udp(7), UDP_SEGMENT); 0 ends that.
func segment(c *net.UDPConn, each int) (err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, each) }); cerr != nil {
		return cerr
	}
	return err
}
