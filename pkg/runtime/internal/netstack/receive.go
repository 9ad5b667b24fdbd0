package netstack

import (
	"encoding/binary"
	"net/netip"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Receive implements [vnet.Host]: a frame of the guest. It is judged on a copy, of
// which datagrams and segments need the headers only.
func (l *link) Receive(q int, h *vnet.Header, v [][]byte) {
	size := queue.Len(v)
	c := &l.net.count
	c.sentFrames.Add(1)
	c.sentBytes.Add(uint64(size))
	if l.capture != nil {
		l.capture.frame(time.Now(), v)
	}
	if size <= ethernetHeader {
		c.dropped.Add(1)
		return
	}
	var eth [ethernetHeader]byte
	queue.Gather(eth[:], v)
	proto := header.Ethernet(eth[:]).Type()
	if l.direct(q, proto, h, v, size) {
		return
	} else if h.GSOType == vnet.GSOUDP { // and what it holds is something else
		c.dropped.Add(1)
		return
	}
	view := buffer.NewViewSize(size - ethernetHeader)
	gatherFrom(view.AsSlice(), v, ethernetHeader)
	l.judge(proto, view)
}

// gatherFrom copies what comes after the first skip bytes of src.
func gatherFrom(dst []byte, src [][]byte, skip int) {
	n := 0
	for _, b := range src {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n += copy(dst[n:], b[skip:])
		skip = 0
	}
}

// judge passes on what the guest may send, and owns the packet.
func (l *link) judge(proto tcpip.NetworkProtocolNumber, view *buffer.View) {
	p := view.AsSlice()
	pass := false
	switch proto {
	case header.ARPProtocolNumber:
		l.arp(p)
	case header.IPv4ProtocolNumber:
		pass = l.judge4(p)
	case header.IPv6ProtocolNumber:
		pass = l.judge6(p)
	default:
		l.net.count.dropped.Add(1)
	}
	if !pass {
		view.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	l.dispatcher.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// judge4 says whether a packet may go into the stack: it comes from the guest's
// own address, or is how a client asks for one. Echo requests to others than us
// are answered by those alone.
func (l *link) judge4(p []byte) bool {
	h := header.IPv4(p)
	if len(p) < header.IPv4MinimumSize || header.IPVersion(p) != 4 || int(h.HeaderLength()) < header.IPv4MinimumSize || int(h.HeaderLength()) > len(p) {
		l.net.count.dropped.Add(1)
		return false
	}
	src, dst := netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	body := p[h.HeaderLength():]
	if src != Guest4 && !(src.IsUnspecified() && isDHCP(h.TransportProtocol(), body)) {
		l.net.count.dropped.Add(1)
		return false
	}
	if h.TransportProtocol() == header.ICMPv4ProtocolNumber && dst != Gateway4 {
		if h.FragmentOffset() != 0 || h.More() {
			body = l.net.ping.pieces.add(pieceKey{dst, uint32(h.ID())}, int(h.FragmentOffset()), h.More(), body)
		}
		l.net.ping.echo(dst, int(h.TTL()), body)
		return false
	}
	return true
}

// isDHCP reports whether a datagram is from a client to a server (RFC 2131 §4.1).
func isDHCP(proto tcpip.TransportProtocolNumber, p []byte) bool {
	return proto == header.UDPProtocolNumber && len(p) >= header.UDPMinimumSize &&
		binary.BigEndian.Uint16(p) == dhcpClientPort && binary.BigEndian.Uint16(p[2:]) == dhcpServerPort
}

// judge6 is the same for IPv6. Neighbours are ours to tell of, see neighbour.go.
func (l *link) judge6(p []byte) bool {
	h := header.IPv6(p)
	if len(p) < header.IPv6MinimumSize || header.IPVersion(p) != 6 {
		l.net.count.dropped.Add(1)
		return false
	}
	src, dst := netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
	proto, at, ok := upperLayer(p)
	if !ok {
		l.net.count.dropped.Add(1)
		return false
	}
	body := p[at:]
	if proto == header.ICMPv6ProtocolNumber {
		switch {
		case fragmentOnly(h, at) && src == Guest6 && dst == Gateway6:
			return true
		case fragmentOnly(h, at) && src == Guest6 && !dst.IsMulticast():
			f := header.IPv6Fragment(p[header.IPv6MinimumSize:])
			body = l.net.ping.pieces.add(pieceKey{dst, f.ID()}, int(f.FragmentOffset())*8, f.More(), body)
			l.net.ping.echo(dst, int(h.HopLimit()), body)
		case at != header.IPv6MinimumSize: // no host has to hide one, and the stack would answer for others
			l.net.count.dropped.Add(1)
		case len(body) < header.ICMPv6MinimumSize:
			l.net.count.dropped.Add(1)
		case l.neighbour(src, dst, body): // solicitations, and what only routers send
		case src == Guest6 && dst == Gateway6:
			return true
		case src == Guest6 && !dst.IsMulticast():
			l.net.ping.echo(dst, int(h.HopLimit()), body)
		}
		return false
	}
	if src != Guest6 {
		// A host says things from its link-local address to groups of the link
		// (RFC 4862 §5.3, RFC 3810): there is nobody to hear them.
		if !src.IsLinkLocalUnicast() && !src.IsUnspecified() || !dst.IsMulticast() {
			l.net.count.dropped.Add(1)
		}
		return false
	}
	return true
}
