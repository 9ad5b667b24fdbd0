package netstack

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	dhcpServerPort = 67
	dhcpClientPort = 68
	leaseTime      = 24 * time.Hour // nobody else wants the address
	maxDHCP        = 1500
)

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dhcp answers a client (RFC 2131) with the one address that there is. The kernel
// that comes with boxlite asks for none: its init sets the address. Others do.
func (n *Network) dhcp(p []byte) {
	if len(p) > maxDHCP {
		n.count.dropped.Add(1)
		return
	}
	m, err := dhcpv4.FromBytes(p)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest {
		n.count.dropped.Add(1)
		return
	}
	reply := dhcpv4.MessageTypeAck
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		reply = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if ip := m.RequestedIPAddress(); ip != nil && !ip.Equal(Guest4.AsSlice()) {
			reply = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeInform:
	default: // a release or a refusal changes nothing
		return
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(reply),
		dhcpv4.WithServerIP(Gateway4.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(Gateway4.AsSlice())),
	}
	if reply != dhcpv4.MessageTypeNak {
		options = append(options,
			dhcpv4.WithYourIP(Guest4.AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(Subnet4.Bits(), 32)),
			dhcpv4.WithRouter(Gateway4.AsSlice()),
			dhcpv4.WithLeaseTime(uint32(leaseTime/time.Second)),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, dhcpv4.Uint16(n.cfg.MTU).ToBytes())),
		)
		if n.cfg.DNS != nil {
			options = append(options, dhcpv4.WithDNS(Gateway4.AsSlice()))
		}
		if n.cfg.Hostname != "" {
			options = append(options, dhcpv4.WithOption(dhcpv4.OptHostName(n.cfg.Hostname)))
		}
	}
	r, err := dhcpv4.NewReplyFromRequest(m, options...)
	if err != nil {
		n.count.dropped.Add(1)
		return
	}
	n.sendDatagram(netip.AddrPortFrom(Gateway4, dhcpServerPort), netip.AddrPortFrom(broadcast4, dhcpClientPort), r.ToBytes())
}
