package netstack

import (
	"bytes"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The gateway answers for every address of the link but the guest's own, so that a
// packet to any of them gets here and can be refused.

// arp answers a request (RFC 826). All else that ARP can say would be a lie.
func (l *link) arp(p []byte) {
	h := header.ARP(p)
	if len(p) < header.ARPSize || !h.IsValid() || h.Op() != header.ARPRequest {
		l.net.count.dropped.Add(1)
		return
	}
	sender, target := netip.AddrFrom4([4]byte(h.ProtocolAddressSender())), netip.AddrFrom4([4]byte(h.ProtocolAddressTarget()))
	if sender == target || target == Guest4 || sender.IsUnspecified() {
		return // it announces or probes its own address: nobody objects
	}
	if sender != Guest4 || !bytes.Equal(h.HardwareAddressSender(), GuestMAC) || !Subnet4.Contains(target) {
		l.net.count.dropped.Add(1)
		return
	}
	reply := make([]byte, header.ARPSize)
	r := header.ARP(reply)
	r.SetIPv4OverEthernet()
	r.SetOp(header.ARPReply)
	copy(r.HardwareAddressSender(), GatewayMAC)
	copy(r.ProtocolAddressSender(), h.ProtocolAddressTarget())
	copy(r.HardwareAddressTarget(), h.HardwareAddressSender())
	copy(r.ProtocolAddressTarget(), h.ProtocolAddressSender())
	l.inject(header.ARPProtocolNumber, reply)
}

// neighbour handles what Neighbor Discovery (RFC 4861) and multicast listeners say,
// and reports whether the message was of that kind. body has a whole ICMPv6 header.
func (l *link) neighbour(src, dst netip.Addr, body []byte) bool {
	switch header.ICMPv6(body).Type() {
	case header.ICMPv6NeighborSolicit:
		l.solicited(src, body)
	case header.ICMPv6RouterAdvert, header.ICMPv6RedirectMsg:
		l.net.count.dropped.Add(1) // the guest is no router
	case header.ICMPv6NeighborAdvert, header.ICMPv6RouterSolicit,
		header.ICMPv6MulticastListenerQuery, header.ICMPv6MulticastListenerReport,
		header.ICMPv6MulticastListenerV2Report, header.ICMPv6MulticastListenerDone:
	default:
		return false
	}
	return true
}

const targetLinkAddress = 2 // option of RFC 4861 §4.6.1

// solicited answers a solicitation with an advertisement (RFC 4861 §7.2.4).
func (l *link) solicited(src netip.Addr, body []byte) {
	if len(body) < header.ICMPv6NeighborSolicitMinimumSize {
		l.net.count.dropped.Add(1)
		return
	}
	target := netip.AddrFrom16([16]byte(body[8:]))
	ours := target != Guest6 && Subnet6.Contains(target)
	if src.IsUnspecified() || !ours || src != Guest6 && !src.IsLinkLocalUnicast() {
		return // a probe for its own address, which nobody else has
	}
	const optionSize = 8 // type, length, MAC
	size := header.ICMPv6NeighborAdvertMinimumSize + optionSize
	p := make([]byte, header.IPv6MinimumSize+size)
	from, to := tcpip.AddrFrom16(target.As16()), tcpip.AddrFrom16(src.As16())
	header.IPv6(p).Encode(&header.IPv6Fields{
		PayloadLength: uint16(size), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit, SrcAddr: from, DstAddr: to,
	})
	m := header.ICMPv6(p[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(m.MessageBody())
	na.SetTargetAddress(from)
	na.SetRouterFlag(true)
	na.SetSolicitedFlag(true)
	na.SetOverrideFlag(true)
	option := m[header.ICMPv6NeighborAdvertMinimumSize:]
	option[0], option[1] = targetLinkAddress, 1
	copy(option[2:], GatewayMAC)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: from, Dst: to, PayloadCsum: checksum.Checksum(nil, 0)}))
	l.inject(header.IPv6ProtocolNumber, p)
}

// inject sends a packet of our own making to the guest.
func (l *link) inject(proto tcpip.NetworkProtocolNumber, p []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: ethernetHeader, Payload: buffer.MakeWithData(p),
	})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = proto
	var list stack.PacketBufferList
	list.PushBack(pkt)
	_, _ = l.WritePackets(list)
}
