package netstack

import (
	"encoding/binary"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// segments passes on the datagrams of a frame that holds many (virtio 1.3 §5.1.6.2,
// VIRTIO_NET_HDR_GSO_UDP_L4), which the stack takes one at a time, and owns the packet.
// The card has seen to it that they are 128 at most.
func (l *link) segments(proto tcpip.NetworkProtocolNumber, h *vnet.Header, view *buffer.View) {
	defer view.Release()
	p := view.AsSlice()
	at, ok := datagramAt(proto, p)
	if !ok || ethernetHeader+at != int(h.CsumStart) || h.GSOSize == 0 {
		l.net.count.dropped.Add(1)
		return
	}
	head := p[:at+header.UDPMinimumSize]
	rest := p[len(head):]
	for i := 0; i == 0 || len(rest) > 0; i++ {
		n := min(len(rest), int(h.GSOSize))
		one := buffer.NewViewSize(len(head) + n)
		b := one.AsSlice()
		copy(b[copy(b, head):], rest[:n])
		rest = rest[n:]
		if proto == header.IPv4ProtocolNumber {
			ip := header.IPv4(b)
			ip.SetTotalLength(uint16(len(b)))
			ip.SetID(ip.ID() + uint16(i))
		} else {
			header.IPv6(b).SetPayloadLength(uint16(len(b) - header.IPv6MinimumSize))
		}
		// Checksums are left as they are: nobody looks at them, see Capabilities.
		binary.BigEndian.PutUint16(b[at+4:], uint16(header.UDPMinimumSize+n))
		l.judge(proto, one)
	}
}

// datagramAt finds the UDP header in a packet that is no fragment and, as Linux
// segments no others, has no IPv6 extensions.
func datagramAt(proto tcpip.NetworkProtocolNumber, p []byte) (at int, ok bool) {
	switch proto {
	case header.IPv4ProtocolNumber:
		h := header.IPv4(p)
		if len(p) < header.IPv4MinimumSize || h.Protocol() != uint8(header.UDPProtocolNumber) || h.More() || h.FragmentOffset() != 0 {
			return 0, false
		}
		at = int(h.HeaderLength())
		ok = at >= header.IPv4MinimumSize
	case header.IPv6ProtocolNumber:
		at = header.IPv6MinimumSize
		ok = len(p) >= at && header.IPv6(p).TransportProtocol() == header.UDPProtocolNumber
	}
	return at, ok && at+header.UDPMinimumSize <= len(p)
}
