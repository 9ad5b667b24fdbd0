package netstack

import (
	"encoding/binary"
	"net/netip"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The guest's datagrams and segments go past the stack, which would only find out what
// they are: what a kernel sends is one packet, without options, to one address. Whatever
// else it may be, a fragment say, takes the way through the stack to the same tables.

const (
	// directHead is what is looked at of a frame, and the most that a packet to the guest
	// has for headers.
	directHead = ethernetHeader + header.IPv6MinimumSize + header.TCPHeaderMaximumSize
	// directPieces is how many pieces of guest memory a packet may lie in. Linux has 18
	// at most for a frame of 64 KiB.
	directPieces = 24
)

// flowKey names a flow or a connection by its two ends: src is the guest's.
type flowKey struct{ src, dst netip.AddrPort }

// direct passes on a frame that holds datagrams or a segment, from guest memory to the
// host's socket, and reports whether it was one. What it decides by is a copy.
func (l *link) direct(q int, proto tcpip.NetworkProtocolNumber, h *vnet.Header, v [][]byte, size int) bool {
	if len(v) > directPieces {
		return false
	}
	var head [directHead]byte
	p := head[ethernetHeader:queue.Gather(head[:], v)]
	d, ok := plainPacket(proto, p, size-ethernetHeader)
	switch {
	case !ok:
		return false
	case d.proto == uint8(header.UDPProtocolNumber):
		return l.datagrams(&d, p, h, v, size)
	case h.GSOType == vnet.GSOUDP:
		return false
	default:
		return l.segment(q, &d, p, v)
	}
}

// datagrams passes on those in a frame.
func (l *link) datagrams(d *plain, p []byte, h *vnet.Header, v [][]byte, size int) bool {
	udp := p[d.at:]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < header.UDPMinimumSize || d.at+length > d.end {
		return false
	}
	key := d.ends(udp)
	skip := ethernetHeader + d.at + header.UDPMinimumSize
	if h.GSOType != vnet.GSOUDP {
		l.part(key, v, skip, length-header.UDPMinimumSize)
		return true
	}
	// Many datagrams (virtio 1.3 §5.1.6.2, VIRTIO_NET_HDR_GSO_UDP_L4), all that the frame
	// holds; the card has seen to it that they are 128 at most.
	all := size - skip
	if int(h.CsumStart) != skip-header.UDPMinimumSize || h.GSOSize == 0 {
		return false
	}
	each := int(h.GSOSize)
	for off := 0; off == 0 || off < all; {
		n := min(all-off, segmentsMost*each, segmentedMost/each*each)
		if n <= each || !l.parts(key, v, skip+off, n, each) {
			n = min(all-off, each)
			l.part(key, v, skip+off, n)
		}
		off += max(n, 1)
	}
	return true
}

// parts is part for many datagrams of the same size, if they can go in one call.
func (l *link) parts(key flowKey, v [][]byte, off, n, each int) bool {
	var pieces [directPieces][]byte
	return l.net.udp.takeMany(key, queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], off), n), n, each)
}

// part passes on the datagram that is n bytes of a frame from an offset on.
func (l *link) part(key flowKey, v [][]byte, off, n int) {
	var pieces [directPieces][]byte
	l.net.udp.take(key, queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], off), n))
}

// segment passes on the TCP segment in a frame, unless it is for the gateway itself.
func (l *link) segment(q int, d *plain, p []byte, v [][]byte) bool {
	tcp := header.TCP(p[d.at:])
	size := int(tcp.DataOffset())
	if size < header.TCPMinimumSize || d.at+size > d.end || size > len(tcp) {
		return false
	}
	var s segment
	s.decode(tcp[:size])
	var pieces [directPieces][]byte
	body := queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], ethernetHeader+d.at+size), d.end-d.at-size)
	return l.net.tcp.take(q, d.ends(tcp), &s, body)
}

// plain says where a datagram or a segment is in its packet.
type plain struct {
	src, dst netip.Addr
	proto    uint8
	at       int // of the transport header
	end      int // of the packet, as it says itself
}

// ends are the flow's, by what its transport header begins with.
func (d *plain) ends(transport []byte) flowKey {
	return flowKey{
		netip.AddrPortFrom(d.src, binary.BigEndian.Uint16(transport)),
		netip.AddrPortFrom(d.dst, binary.BigEndian.Uint16(transport[2:])),
	}
}

// plainPacket finds the datagram or segment of the guest's that is all that a packet of
// size bytes carries. p is the packet's beginning, which is enough of it. Checksums are
// not looked at, see Capabilities.
func plainPacket(proto tcpip.NetworkProtocolNumber, p []byte, size int) (d plain, ok bool) {
	switch proto {
	case header.IPv4ProtocolNumber:
		if len(p) < header.IPv4MinimumSize || p[0] != 4<<4|header.IPv4MinimumSize/4 {
			return d, false
		}
		h := header.IPv4(p)
		if h.More() || h.FragmentOffset() != 0 {
			return d, false
		}
		d.at, d.end, d.proto = header.IPv4MinimumSize, int(h.TotalLength()), p[9]
		d.src, d.dst = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
		ok = d.src == Guest4 && d.dst != subnetBroadcast4
	case header.IPv6ProtocolNumber:
		if len(p) < header.IPv6MinimumSize || header.IPVersion(p) != 6 {
			return d, false
		}
		d.at, d.end, d.proto = header.IPv6MinimumSize, header.IPv6MinimumSize+int(header.IPv6(p).PayloadLength()), p[6]
		d.src, d.dst = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
		ok = d.src == Guest6 && !d.dst.Is4In6()
	}
	if !ok || !d.dst.IsGlobalUnicast() || d.end > size {
		return d, false
	}
	switch d.proto {
	case uint8(header.UDPProtocolNumber):
		return d, d.at+header.UDPMinimumSize <= min(len(p), d.end)
	case uint8(header.TCPProtocolNumber):
		return d, d.at+header.TCPMinimumSize <= min(len(p), d.end)
	}
	return d, false
}
