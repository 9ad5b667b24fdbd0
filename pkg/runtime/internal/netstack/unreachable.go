package netstack

import (
	"errors"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// unreachable tells the guest by ICMP why a flow of datagrams gets nowhere: RFC 792,
// RFC 1812 §5.2.7.1, RFC 4443 §3.1. The packet that it is about is made up from what
// the flow knows; that much is what programs' sockets are found by. There are so many a
// second at most as the stack itself sends (RFC 1812 §4.3.2.8).
func (n *Network) unreachable(key flowKey, why error) {
	code4, code6, ok := unreachableCodes(why)
	if !ok || !n.unreachables.Allow() {
		return
	}
	from := key.dst.Addr()
	if !errors.Is(why, syscall.ECONNREFUSED) { // it did not get there
		from = Gateway4
		if key.dst.Addr().Is6() {
			from = Gateway6
		}
	}
	guest, far, speaker := toTCPIP(key.src.Addr()), toTCPIP(key.dst.Addr()), toTCPIP(from)
	udp := make([]byte, header.UDPMinimumSize)
	header.UDP(udp).Encode(&header.UDPFields{SrcPort: key.src.Port(), DstPort: key.dst.Port(), Length: header.UDPMinimumSize})
	if key.dst.Addr().Is4() {
		about := append(ipv4Header(guest, far, header.UDPProtocolNumber, len(udp)), udp...)
		m := append(make([]byte, header.ICMPv4MinimumSize), about...)
		h := header.ICMPv4(m)
		h.SetType(header.ICMPv4DstUnreachable)
		h.SetCode(code4)
		h.SetChecksum(^checksum.Checksum(m, 0))
		n.link.inject(header.IPv4ProtocolNumber, append(ipv4Header(speaker, guest, header.ICMPv4ProtocolNumber, len(m)), m...))
		return
	}
	about := append(ipv6Header(guest, far, header.UDPProtocolNumber, len(udp)), udp...)
	m := append(make([]byte, header.ICMPv6MinimumSize), about...)
	h := header.ICMPv6(m)
	h.SetType(header.ICMPv6DstUnreachable)
	h.SetCode(code6)
	h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: h, Src: speaker, Dst: guest}))
	n.link.inject(header.IPv6ProtocolNumber, append(ipv6Header(speaker, guest, header.ICMPv6ProtocolNumber, len(m)), m...))
}

// unreachableCodes are the codes for an error; false for one that says nothing of the
// destination.
func unreachableCodes(why error) (header.ICMPv4Code, header.ICMPv6Code, bool) {
	var no syscall.Errno
	switch {
	case errors.Is(why, errDenied):
		return header.ICMPv4AdminProhibited, header.ICMPv6Prohibited, true
	case !errors.As(why, &no):
	case no == syscall.ECONNREFUSED:
		return header.ICMPv4PortUnreachable, header.ICMPv6PortUnreachable, true
	case no == syscall.EHOSTUNREACH:
		return header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable, true
	case no == syscall.ENETUNREACH:
		return header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable, true
	}
	return 0, 0, false
}

func ipv4Header(src, dst tcpip.Address, proto tcpip.TransportProtocolNumber, size int) []byte {
	p := make([]byte, header.IPv4MinimumSize)
	h := header.IPv4(p)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(p) + size), TTL: 64, Protocol: uint8(proto), SrcAddr: src, DstAddr: dst,
	})
	h.SetChecksum(^h.CalculateChecksum())
	return p
}

func ipv6Header(src, dst tcpip.Address, proto tcpip.TransportProtocolNumber, size int) []byte {
	p := make([]byte, header.IPv6MinimumSize)
	header.IPv6(p).Encode(&header.IPv6Fields{
		PayloadLength: uint16(size), TransportProtocol: proto, HopLimit: 64, SrcAddr: src, DstAddr: dst,
	})
	return p
}

// isRefused reports an error that a datagram before caused, and that says nothing
// about the next.
func isRefused(err error) bool {
	if err == nil {
		return false // without an allocation: it is asked for each datagram
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE:
		return true
	}
	return false
}
