package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// sendSegmented gives the network a frame that holds the datagrams of a packet.
func (h *hostileGuest) sendSegmented(packet []byte, size, udpAt int) {
	eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0)
	if packet[0]>>4 == 6 {
		eth[12], eth[13] = 0x86, 0xdd
	}
	h.net.Host().Receive(0, &vnet.Header{
		Flags: vnet.NeedsCsum, GSOType: vnet.GSOUDP, GSOSize: uint16(size), CsumStart: uint16(ethernetHeader + udpAt), CsumOffset: udpChecksumOffset,
	}, [][]byte{eth, packet})
}

// TestSegmentedDatagrams has each datagram of a frame arrive by itself, in order.
func TestSegmentedDatagrams(t *testing.T) {
	for _, c := range []struct {
		host string
		at   int
		box  netip.Addr
	}{{"127.0.0.1:0", header.IPv4MinimumSize, Host4}, {"[::1]:0", header.IPv6MinimumSize, Host6}} {
		server, err := net.ListenPacket("udp", c.host)
		require.NoError(t, err)
		defer server.Close()
		server.SetReadDeadline(time.Now().Add(waitLong))
		h := newHostile(t, Config{})
		dst := netip.AddrPortFrom(c.box, uint16(server.LocalAddr().(*net.UDPAddr).Port))
		for _, size := range []int{0, 1, 999, 1000, 1001, 3000, 3700, 60000} {
			p := datagram(4000, dst, size)
			payload := p[len(p)-size:]
			for i := range payload {
				payload[i] = byte(i / 10)
			}
			h.sendSegmented(p, 1000, c.at)
			buf := make([]byte, maxDatagram)
			for first := true; first || len(payload) > 0; first = false {
				n, _, err := server.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, min(1000, len(payload)), n)
				require.True(t, bytes.Equal(payload[:n], buf[:n]))
				payload = payload[n:]
			}
		}
		require.Zero(t, h.net.Stats().Dropped)
		f := h.net.udp.flow(flowKey{netip.AddrPortFrom(guestOf(c.box), 4000), dst})
		require.False(t, f.single)
		require.Equal(t, segmentsMost > 1, f.each == 1000, "in one call")
		large := datagram(4000, dst, 5000) // which is one
		h.send(large)
		n, _, err := server.ReadFrom(make([]byte, maxDatagram))
		require.NoError(t, err)
		require.Equal(t, 5000, n)
	}
}

// TestHostileSegmentedDatagrams says that frames hold datagrams that do not.
func TestHostileSegmentedDatagrams(t *testing.T) {
	h := newHostile(t, Config{})
	dst4, dst6 := netip.AddrPortFrom(Host4, 9), netip.AddrPortFrom(Host6, 9)
	whole := datagram(4000, dst4, 3000)
	fragment, options, short := bytes.Clone(whole), bytes.Clone(whole), bytes.Clone(whole)[:header.IPv4MinimumSize+4]
	header.IPv4(fragment).SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	options[0] = 0x4f
	extended := datagram(4000, dst6, 3000)
	extended[6] = uint8(header.IPv6DestinationOptionsExtHdrIdentifier)
	for what, f := range map[string]func(){
		"no size":                func() { h.sendSegmented(whole, 0, header.IPv4MinimumSize) },
		"a checksum elsewhere":   func() { h.sendSegmented(whole, 1000, header.IPv4MinimumSize+2) },
		"a fragment":             func() { h.sendSegmented(fragment, 1000, header.IPv4MinimumSize) },
		"a header in the header": func() { h.sendSegmented(options, 1000, header.IPv4MinimumSize) },
		"half a header":          func() { h.sendSegmented(short, 1000, header.IPv4MinimumSize) },
		"an extension":           func() { h.sendSegmented(extended, 1000, header.IPv6MinimumSize) },
		"TCP": func() {
			h.sendSegmented(tcpPacket(4000, dst4, header.TCPFlagSyn, 1, 0, 1000), 1000, header.IPv4MinimumSize)
		},
	} {
		before := h.net.Stats().Dropped
		f()
		require.Equal(t, before+1, h.net.Stats().Dropped, what)
	}
	h.honest()
}

// TestScatteredDatagram has a datagram lie in many pieces of guest memory.
func TestScatteredDatagram(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	server.SetReadDeadline(time.Now().Add(waitLong))
	h := newHostile(t, Config{})
	p := datagram(4000, netip.AddrPortFrom(Host4, uint16(server.LocalAddr().(*net.UDPAddr).Port)), 1000)
	for i := range p[28:] {
		p[28+i] = byte(i)
	}
	eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0)
	for _, size := range []int{1000, 200, 60, 20} { // the last are too many to go past the stack
		frame := [][]byte{eth}
		for rest := p; len(rest) > 0; {
			n := min(size, len(rest))
			frame, rest = append(frame, rest[:n]), rest[n:]
		}
		h.net.Host().Receive(0, &vnet.Header{}, frame)
		buf := make([]byte, maxDatagram)
		n, _, err := server.ReadFrom(buf)
		require.NoError(t, err)
		require.True(t, bytes.Equal(p[28:], buf[:n]), "pieces of %d bytes", size)
	}
}
