package boot

import (
	"errors"
	"os"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/ethtool"
	"golang.org/x/sys/unix"
)

// network gives the box's network card its addresses and routes. Nothing is asked
// of the network, and nothing waited for: the host knows all of it. With the
// neighbours known too, the first packet leaves at once.
func network(n *agentapi.Network) error {
	if n.Link == "" {
		return nil
	}
	nl, err := dialNetlink()
	if err != nil {
		return err
	}
	defer nl.close()
	index, err := prepare(n.Link)
	if err != nil {
		return err
	}
	var r requests
	for _, a := range n.Addrs {
		if a.Addr == "" || familyOf(a.Addr) == 0 || int(a.Bits) > 8*len(a.Addr) {
			return errors.New("address of the network card is malformed")
		}
		r.addAddr(index, a)
	}
	r.setUp(index)
	for _, b := range n.Neighbours {
		if familyOf(b.Addr) == 0 || len(b.MAC) != 6 {
			return errors.New("neighbour is malformed")
		}
		r.addNeighbour(index, b)
	}
	for _, g := range n.Gateways {
		if familyOf(g) == 0 {
			return errors.New("gateway is malformed")
		}
		r.addRoute(index, g)
	}
	return nl.do(&r)
}

// prepare finds the network card, and has it do what it can.
func prepare(name string) (index uint32, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, os.NewSyscallError(name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, os.NewSyscallError("looking for "+name, err)
	}
	_ = ethtool.SegmentUDP(fd, name) // the kernel does it otherwise
	return ifr.Uint32(), nil
}

// familyOf is the address family of an address, 0 for none.
func familyOf(addr string) byte {
	switch len(addr) {
	case 4:
		return unix.AF_INET
	case 16:
		return unix.AF_INET6
	}
	return 0
}
