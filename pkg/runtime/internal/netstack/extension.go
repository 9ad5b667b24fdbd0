package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// maxExtensions bounds the extension headers of a packet; hosts send two or three.
const maxExtensions = 8

// upperLayer is the protocol that a packet of IPv6 carries, and where it begins. It is
// false for one whose extension headers (RFC 8200 §4) cannot be followed, or say to
// route it otherwise, which no host has to. Of a later fragment it is what the fragment
// says, which the stack does not go by, so that nothing may be allowed on its word.
func upperLayer(p []byte) (proto tcpip.TransportProtocolNumber, at int, ok bool) {
	next := header.IPv6(p).NextHeader()
	at = header.IPv6MinimumSize
	for range maxExtensions {
		size := 8 // of the extension header, at least
		switch header.IPv6ExtensionHeaderIdentifier(next) {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
			if at+size > len(p) {
				return 0, 0, false
			}
			size += 8 * int(p[at+1])
		case header.IPv6FragmentExtHdrIdentifier:
			if at+size > len(p) {
				return 0, 0, false
			}
			if binary.BigEndian.Uint16(p[at+2:])>>3 != 0 {
				return tcpip.TransportProtocolNumber(p[at]), at + size, true
			}
		case header.IPv6RoutingExtHdrIdentifier:
			return 0, 0, false
		default:
			return tcpip.TransportProtocolNumber(next), at, true
		}
		if at+size > len(p) {
			return 0, 0, false
		}
		next, at = p[at], at+size
	}
	return 0, 0, false
}
