package netstack

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Addresses of a box's link. They are the same in every box: each has a link of
// its own, which nobody else sees.
var (
	Subnet4  = netip.MustParsePrefix("192.168.127.0/24")
	Gateway4 = netip.MustParseAddr("192.168.127.1") // also the name server
	Guest4   = netip.MustParseAddr("192.168.127.2")
	Host4    = netip.MustParseAddr("192.168.127.254") // stands for the host's own 127.0.0.1, see [HostName]

	Subnet6  = netip.MustParsePrefix("fd62:6f78:6c69::/64")
	Gateway6 = netip.MustParseAddr("fd62:6f78:6c69::1")
	Guest6   = netip.MustParseAddr("fd62:6f78:6c69::2")
	Host6    = netip.MustParseAddr("fd62:6f78:6c69::fe") // stands for the host's own ::1

	GuestMAC   = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}
	GatewayMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd}
)

// HostName is the name of the host in a box's network.
const HostName = "host.boxlite.internal"

// subnetBroadcast4 is the last address of Subnet4.
var subnetBroadcast4 = netip.MustParseAddr("192.168.127.255")

var (
	guestMAC    = tcpip.LinkAddress(GuestMAC)
	gatewayLink = tcpip.LinkAddress(GatewayMAC)
)

func toTCPIP(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromTCPIP(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func withPrefix(a netip.Addr, bits int) tcpip.AddressWithPrefix {
	return tcpip.AddressWithPrefix{Address: toTCPIP(a), PrefixLen: bits}
}

func subnet(s string) tcpip.Subnet {
	p := netip.MustParsePrefix(s)
	return withPrefix(p.Addr(), p.Bits()).Subnet()
}

// networkOf is the network protocol of an address.
func networkOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// hostSide is where a connection of the guest to an address goes on the host.
func hostSide(dst netip.AddrPort) netip.AddrPort {
	switch dst.Addr() {
	case Host4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port())
	case Host6:
		return netip.AddrPortFrom(netip.IPv6Loopback(), dst.Port())
	}
	return dst
}
