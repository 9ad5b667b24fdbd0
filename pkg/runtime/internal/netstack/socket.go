package netstack

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// socketOwner is who sockets tells of events.
type socketOwner interface {
	// serve does what can be done for a socket of which these events are new. It returns
	// how many packets that were, and whether nothing is left to do before the next
	// event. It may be called when there are none, and after the socket was removed.
	serve(events uint32) (count int, done bool)
}

// sockaddr is an address as the system calls want it, with its family.
func sockaddr(to netip.AddrPort) (family int, addr unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// addrPort is the other way round.
func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// writePieces writes to a socket, in one call. It allocates for more than eight pieces,
// which only what a guest's kernel took from its page cache has.
func writePieces(fd int, v [][]byte) (n int, err error) {
	for {
		switch len(v) {
		case 0:
			n, err = unix.Write(fd, nil)
		case 1:
			n, err = unix.Write(fd, v[0])
		default:
			n, err = unix.Writev(fd, v)
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}
