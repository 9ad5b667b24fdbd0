package netstack

import (
	"encoding/binary"
	"net/netip"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	hopLimit          = 64 // of what goes to the guest
	udpChecksumOffset = 6  // in the header, RFC 768
)

// joins reports whether the guest takes many datagrams in one frame (virtio 1.3
// §5.1.6.4.1, VIRTIO_NET_HDR_GSO_UDP_L4).
func (l *link) joins() bool {
	return l.nic != nil && l.nic.Offloads().Has(vnet.OffloadCsum|vnet.OffloadUSO)
}

// offloadsChecksums reports whether the guest takes packets without a checksum.
func (l *link) offloadsChecksums() bool {
	return l.nic != nil && l.nic.Offloads().Has(vnet.OffloadCsum)
}

// sendDatagram sends one to the guest and has it hear of it.
func (n *Network) sendDatagram(from, to netip.AddrPort, p []byte) {
	n.link.flushQueue(n.link.sendDatagrams(from, to, p, len(p)))
}

// sendDatagrams sends to the guest what p holds, in datagrams of so many bytes each and
// a shorter one at the end, and returns the queue that has to be flushed for the guest to
// hear of them. A datagram that does not fit into a packet of the link goes through the
// stack, in fragments. Preconditions: more than one are allowed by joins, fit into a
// packet of the link each, and have joinedMost bytes together at most.
func (l *link) sendDatagrams(from, to netip.AddrPort, p []byte, each int) (q int) {
	ip := ipHeaderLen(from.Addr())
	q = l.pairOf(from.Port(), to.Port())
	if ip+header.UDPMinimumSize+each > int(l.mtu) {
		l.net.sendFragmented(from, to, p)
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
	// The guest's kernel knows that nothing can have happened to them on the way.
	partial := l.offloadsChecksums()
	s.header = vnet.Header{}
	if partial {
		s.header = vnet.Header{Flags: vnet.NeedsCsum, CsumStart: uint16(ethernetHeader + ip), CsumOffset: udpChecksumOffset}
	}
	if len(p) > each {
		s.header.GSOType, s.header.GSOSize, s.header.HdrLen = vnet.GSOUDP, uint16(each), uint16(len(head))
	}
	encodeDatagram(head, from, to, p, partial)
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
	for first := true; first || len(p) > 0; first = false { // each by itself, as the guest may take no joined ones by then
		one := p[:min(each, len(p))]
		p = p[len(one):]
		encodeDatagram(head, from, to, one, partial)
		s.keepFrame(l, head, one, udpChecksumOffset)
	}
	return q
}

// keepFrame has a frame, of which s.header says what is left to do, wait for room, if there
// is some to wait in. Preconditions: mu.
func (s *sendQueue) keepFrame(l *link, head, p []byte, sumAt uint16) {
	if !s.roomFor(len(head) + len(p)) {
		l.net.count.lost.Add(1)
		return
	}
	frame := make([]byte, len(head)+len(p))
	copy(frame[copy(frame, head):], p)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(buffer.NewViewWithData(frame))})
	defer pkt.DecRef()
	if s.header.Flags&vnet.NeedsCsum != 0 {
		pkt.GSOOptions = stack.GSO{NeedsCsum: true, CsumOffset: sumAt, L3HdrLen: s.header.CsumStart - ethernetHeader}
	}
	s.keep(l, pkt)
}

// encodeDatagram writes the headers of a datagram to the guest, or of many in a frame,
// with a checksum of what the guest's kernel does not see to only, or with a whole one.
func encodeDatagram(head []byte, from, to netip.AddrPort, p []byte, partial bool) {
	at := len(head) - header.UDPMinimumSize
	udp := header.UDP(head[at:])
	size := len(udp) + len(p)
	check := encodeIP(head[:at], from.Addr(), to.Addr(), header.UDPProtocolNumber, size)
	udp.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(size)})
	if !partial {
		if check = ^checksum.Checksum(p, checksum.Checksum(udp, check)); check == 0 {
			check = 0xffff // zero means none
		}
	}
	udp.SetChecksum(check)
}

// encodeIP writes the headers before a datagram or segment of so many bytes to the guest,
// and returns the checksum of its pseudo-header (RFC 768, RFC 8200 §8.1), which is all
// that a guest with offloads wants.
func encodeIP(head []byte, from, to netip.Addr, proto tcpip.TransportProtocolNumber, size int) uint16 {
	clear(head)
	copy(head, GuestMAC)
	copy(head[6:], GatewayMAC)
	binary.BigEndian.PutUint16(head[12:], uint16(networkOf(from)))
	ip := head[ethernetHeader:]
	var ends []byte // both addresses
	if from.Is4() {
		ip[0], ip[8], ip[9] = 4<<4|header.IPv4MinimumSize/4, hopLimit, uint8(proto)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+size))
		ip[6] = header.IPv4FlagDontFragment << 5 // RFC 6864 §4.1: such a packet needs no identification
		ends = ip[12:20]
		a, b := from.As4(), to.As4()
		copy(ends[copy(ends, a[:]):], b[:])
		header.IPv4(ip).SetChecksum(^checksum.Checksum(ip, 0))
	} else {
		ip[0], ip[6], ip[7] = 6<<4, uint8(proto), hopLimit
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		ends = ip[8:40]
		a, b := from.As16(), to.As16()
		copy(ends[copy(ends, a[:]):], b[:])
	}
	return checksum.Combine(checksum.Checksum(ends, uint16(proto)), uint16(size))
}

// sendFragmented sends one that is larger than a packet.
func (n *Network) sendFragmented(from, to netip.AddrPort, p []byte) {
	route, err := n.stack.FindRoute(nicID, toTCPIP(from.Addr()), toTCPIP(to.Addr()), networkOf(from.Addr()), false)
	if err != nil {
		n.count.lost.Add(1)
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + header.UDPMinimumSize, Payload: payload(p),
	})
	defer pkt.DecRef()
	u := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(header.UDPMinimumSize + len(p))})
	u.SetChecksum(udpChecksum(route, u, p))
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: hopLimit, TOS: stack.DefaultTOS}, pkt)
}

func ipHeaderLen(a netip.Addr) int {
	if a.Is4() {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

func udpChecksum(route *stack.Route, u header.UDP, p []byte) uint16 {
	sum := route.PseudoHeaderChecksum(header.UDPProtocolNumber, u.Length())
	sum = ^u.CalculateChecksum(checksum.Combine(sum, checksum.Checksum(p, 0)))
	if sum == 0 {
		return 0xffff // RFC 768: zero means none
	}
	return sum
}

// payload is a copy of p in the stack's own memory.
func payload(p []byte) buffer.Buffer {
	return buffer.MakeWithView(buffer.NewViewWithData(p))
}
