package netstack

import (
	"encoding/binary"
	"net/netip"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Datagrams go past the stack, which would only find out what they are: what a
// guest's kernel sends is one packet, without options, to one address. Whatever else
// it may be, a fragment say, takes the way through the stack to the same table.

const (
	// directHead is what is looked at of a frame.
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
		var pieces [directPieces][]byte
		data := queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], skip), d.size)
		l.net.udp.take(d.key, data)
		return true
	}
	// Many datagrams (virtio 1.3 §5.1.6.2, VIRTIO_NET_HDR_GSO_UDP_L4); the card has
	// seen to it that they are 128 at most.
	if int(h.CsumStart) != skip-header.UDPMinimumSize || h.GSOSize == 0 {
		return false
	}
	for off := 0; off == 0 || off < d.size; off += int(h.GSOSize) {
		var pieces [directPieces][]byte
		data := queue.Prefix(queue.Skip(pieces[:copy(pieces[:], v)], skip+off), min(d.size-off, int(h.GSOSize)))
		l.net.udp.take(d.key, data)
	}
	return true
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
		ok = src == Guest4 && dst != broadcastOf4
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

// maxSegments is how many datagrams go to the guest in one frame. Linux cuts such frames
// for programs that do not ask for them whole; older ones take no more.
const maxSegments = 64

// joins reports whether the guest takes many datagrams in one frame.
func (l *link) joins() bool {
	return l.nic != nil && l.nic.Offloads().Has(vnet.OffloadCsum|vnet.OffloadUSO)
}

// datagrams sends to the guest what p holds, in datagrams of so many bytes each and a
// shorter one at the end. More than one needs joins, and has to fit into a packet's
// length. The guest hears of them when the queue that is the result is flushed. One
// that does not fit into a packet of the link goes through the stack, in fragments.
func (l *link) datagrams(from, to netip.AddrPort, p []byte, each int) (q int) {
	ip := headerLen(from.Addr())
	q = l.pairOf(from.Port(), to.Port())
	if ip+header.UDPMinimumSize+each > int(l.mtu) {
		l.net.fragmented(from, to, p)
		return q
	}
	if l.nic == nil {
		l.net.count.lost.Add(1)
		return q
	}
	s := &l.queues[q]
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.head[:ethernetHeader+ip+header.UDPMinimumSize]
	s.header = vnet.Header{}
	if l.offloadsChecksums() {
		// The guest's kernel knows that nothing can have happened to it on the way.
		s.header = vnet.Header{Flags: vnet.NeedsCsum, CsumStart: uint16(ethernetHeader + ip), CsumOffset: udpChecksumOffset}
	}
	if len(p) > each {
		s.header.GSOType, s.header.GSOSize, s.header.HdrLen = vnet.GSOUDP, uint16(each), uint16(len(head))
	}
	encodeDatagram(head, from, to, p, s.header.Flags == 0)
	s.pieces = append(s.pieces[:0], head)
	if len(p) > 0 {
		s.pieces = append(s.pieces, p)
	}
	if len(s.backlog) == 0 {
		switch s.transmit(l, q) {
		case vnet.Sent:
			return q
		case vnet.Down:
			l.net.count.lost.Add(1)
			return q
		}
	}
	for first := true; first || len(p) > 0; first = false { // apart, as the guest may take no joined ones by then
		one := p[:min(each, len(p))]
		p = p[len(one):]
		encodeDatagram(head, from, to, one, s.header.Flags == 0)
		b := make([]byte, len(head)+len(one))
		copy(b[copy(b, head):], one)
		s.keepDatagram(l, b, uint16(ip))
	}
	return q
}

// keepDatagram has the frame of one datagram wait for room. Preconditions: mu.
func (s *sendQueue) keepDatagram(l *link, frame []byte, ip uint16) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	if s.header.Flags != 0 {
		pkt.GSOOptions = stack.GSO{NeedsCsum: true, CsumOffset: udpChecksumOffset, L3HdrLen: ip}
	}
	s.keep(l, pkt)
}

// encodeDatagram writes the headers of a datagram to the guest, or of many in a frame.
func encodeDatagram(head []byte, from, to netip.AddrPort, p []byte, sum bool) {
	clear(head)
	copy(head, GuestMAC)
	copy(head[6:], GatewayMAC)
	binary.BigEndian.PutUint16(head[12:], uint16(networkOf(from.Addr())))
	ip := head[ethernetHeader : len(head)-header.UDPMinimumSize]
	udp := header.UDP(head[len(head)-header.UDPMinimumSize:])
	size := uint16(len(udp) + len(p))
	var ends []byte // both addresses
	if from.Addr().Is4() {
		ip[0], ip[8], ip[9] = 4<<4|header.IPv4MinimumSize/4, datagramTTL, uint8(header.UDPProtocolNumber)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip))+size)
		ip[6] = header.IPv4FlagDontFragment << 5 // RFC 6864 §4.1: such a packet needs no identification
		ends = ip[12:20]
		a, b := from.Addr().As4(), to.Addr().As4()
		copy(ends[copy(ends, a[:]):], b[:])
		header.IPv4(ip).SetChecksum(^checksum.Checksum(ip, 0))
	} else {
		ip[0], ip[6], ip[7] = 6<<4, uint8(header.UDPProtocolNumber), datagramTTL
		binary.BigEndian.PutUint16(ip[4:], size)
		ends = ip[8:40]
		a, b := from.Addr().As16(), to.Addr().As16()
		copy(ends[copy(ends, a[:]):], b[:])
	}
	udp.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: size})
	// The pseudo-header (RFC 768, RFC 8200 §8.1), which is all that a guest with offloads wants.
	check := checksum.Combine(checksum.Checksum(ends, uint16(header.UDPProtocolNumber)), size)
	if sum {
		if check = ^checksum.Checksum(p, checksum.Checksum(udp, check)); check == 0 {
			check = 0xffff // zero means none
		}
	}
	udp.SetChecksum(check)
}

const datagramTTL = 64
