package netstack

import (
	"encoding/binary"
	"net/netip"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The guest's datagrams go past the stack, which would only find out what they are:
// what a kernel sends is one packet, without options, to one address. Whatever else it
// may be, a fragment say, takes the way through the stack to the same table.

const (
	// directHead is what is looked at of a frame, and the most that a datagram to the
	// guest has for headers.
	directHead = ethernetHeader + header.IPv6MinimumSize + header.UDPMinimumSize
	// directPieces is how many pieces of guest memory a datagram may lie in. Linux
	// has 18 at most for a frame of 64 KiB.
	directPieces = 24
)

// direct passes on a frame that holds datagrams, from guest memory to the host's
// socket, and reports whether it was one. What it decides by is a copy.
func (l *link) direct(proto tcpip.NetworkProtocolNumber, h *vnet.Header, v [][]byte, size int) bool {
	if len(v) > directPieces {
		return false
	}
	var head [directHead]byte
	d, ok := plainDatagram(proto, head[ethernetHeader:queue.Gather(head[:], v)], size-ethernetHeader)
	if !ok {
		return false
	}
	skip := ethernetHeader + d.at
	if h.GSOType != vnet.GSOUDP {
		l.part(d.key, v, skip, d.size)
		return true
	}
	// Many datagrams (virtio 1.3 §5.1.6.2, VIRTIO_NET_HDR_GSO_UDP_L4), all that the frame
	// holds; the card has seen to it that they are 128 at most.
	d.size = size - skip
	if int(h.CsumStart) != skip-header.UDPMinimumSize || h.GSOSize == 0 {
		return false
	}
	for off := 0; off == 0 || off < d.size; off += int(h.GSOSize) {
		l.part(d.key, v, skip+off, min(d.size-off, int(h.GSOSize)))
	}
	return true
}

// part passes on the datagram that is n bytes of a frame from an offset on.
func (l *link) part(key udpKey, v [][]byte, off, n int) {
	var pieces [directPieces][]byte
	l.net.udp.take(key, queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], off), n))
}

// plain says where a datagram is in its packet.
type plain struct {
	key  udpKey
	at   int // of what it carries
	size int // of that
}

// plainDatagram finds the datagram of the guest's that is all that a packet of size
// bytes carries. p is the packet's beginning, which is enough of it. Checksums are not
// looked at, see Capabilities.
func plainDatagram(proto tcpip.NetworkProtocolNumber, p []byte, size int) (d plain, ok bool) {
	var src, dst netip.Addr
	var udp int // where its header is
	switch proto {
	case header.IPv4ProtocolNumber:
		udp = header.IPv4MinimumSize
		if len(p) < udp+header.UDPMinimumSize || p[0] != 4<<4|header.IPv4MinimumSize/4 || p[9] != uint8(header.UDPProtocolNumber) {
			return d, false
		}
		h := header.IPv4(p)
		if h.More() || h.FragmentOffset() != 0 || int(h.TotalLength()) > size {
			return d, false
		}
		size = int(h.TotalLength())
		src, dst = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
		ok = src == Guest4 && dst != subnetBroadcast4
	case header.IPv6ProtocolNumber:
		udp = header.IPv6MinimumSize
		if len(p) < udp+header.UDPMinimumSize || header.IPVersion(p) != 6 || p[6] != uint8(header.UDPProtocolNumber) {
			return d, false
		}
		h := header.IPv6(p)
		if udp+int(h.PayloadLength()) > size {
			return d, false
		}
		size = udp + int(h.PayloadLength())
		src, dst = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
		ok = src == Guest6 && !dst.Is4In6()
	}
	if !ok || !dst.IsGlobalUnicast() {
		return d, false
	}
	length := int(binary.BigEndian.Uint16(p[udp+4:]))
	if length < header.UDPMinimumSize || udp+length > size {
		return d, false
	}
	return plain{
		key: udpKey{
			netip.AddrPortFrom(src, binary.BigEndian.Uint16(p[udp:])),
			netip.AddrPortFrom(dst, binary.BigEndian.Uint16(p[udp+2:])),
		},
		at: udp + header.UDPMinimumSize, size: length - header.UDPMinimumSize,
	}, true
}
