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
			h.sendSegmented(segment(4000, dst4, header.TCPFlagSyn, 1, 0, 1000), 1000, header.IPv4MinimumSize)
		},
	} {
		before := h.net.Stats().Dropped
		f()
		require.Equal(t, before+1, h.net.Stats().Dropped, what)
	}
	h.honest()
}

// joiningCard takes many datagrams in a frame, and keeps each frame.
type joiningCard struct {
	discarding
	got chan wire
}

func (c joiningCard) Offloads() vnet.Offloads { return vnet.AllOffloads }
func (c joiningCard) Send(_ int, h *vnet.Header, v [][]byte) vnet.Status {
	c.got <- wire{*h, bytes.Join(v, nil)}
	return vnet.Sent
}

// TestJoinedDatagrams has what comes together go to the guest in one frame where that
// is allowed, and come out as it was sent.
func TestJoinedDatagrams(t *testing.T) {
	for _, c := range []struct {
		host string
		box  netip.Addr
	}{{"127.0.0.1:0", Host4}, {"[::1]:0", Host6}} {
		server, err := net.ListenPacket("udp", c.host)
		require.NoError(t, err)
		defer server.Close()
		g := newGuest(t, Config{})
		dst := netip.AddrPortFrom(c.box, uint16(server.LocalAddr().(*net.UDPAddr).Port))
		_, err = g.udp(4000, dst).Write([]byte("hello"))
		require.NoError(t, err)
		server.SetReadDeadline(time.Now().Add(waitLong))
		_, from, err := server.ReadFrom(make([]byte, 10))
		require.NoError(t, err)
		f := g.net.udp.flow(udpKey{netip.AddrPortFrom(guestOf(c.box), 4000), dst})
		g.reset() // the test is the card's goroutine
		card := joiningCard{got: make(chan wire, 200)}
		g.net.link.nic = card

		sizes := []int{1200, 1200, 1200, 700, 1200, 0, 0, 1, 1, 1, 2, 1400, 1400, 1300, 1400}
		frames := []int{3*1200 + 700, 1200, 0, 0, 3, 2, 1400 + 1400 + 1300, 1400 + 10}
		for range 2 * maxSegments { // more than fit into one
			sizes = append(sizes, 10)
		}
		var sent [][]byte
		for i, n := range sizes {
			p := bytes.Repeat([]byte{byte(i)}, n)
			sent = append(sent, p)
			_, err := server.WriteTo(p, from)
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { drained, _ := f.receive(); return drained && f.received.Load() == total(sizes) }, waitLong, tick)
		close(card.got)
		i, joined := 0, 0
		for w := range card.got {
			head := ethernetHeader + headerLen(c.box) + header.UDPMinimumSize
			p := w.frame[head:]
			each := len(p)
			if w.h.GSOType != vnet.GSONone {
				require.Equal(t, vnet.Header{
					Flags: vnet.NeedsCsum, GSOType: vnet.GSOUDP, GSOSize: w.h.GSOSize, HdrLen: uint16(head),
					CsumStart: uint16(head - header.UDPMinimumSize), CsumOffset: udpChecksumOffset,
				}, w.h)
				each = int(w.h.GSOSize)
				require.Greater(t, len(p), each)
				joined++
			}
			require.EqualValues(t, header.UDPMinimumSize+len(p), header.UDP(w.frame[head-header.UDPMinimumSize:]).Length())
			if len(frames) > 0 {
				require.Equal(t, frames[0], len(p), "frame of datagram %d", i)
				frames = frames[1:]
			}
			for first := true; first || len(p) > 0; first = false {
				one := p[:min(each, len(p))]
				require.Equal(t, sent[i], one, "datagram %d", i)
				p, i = p[len(one):], i+1
			}
		}
		require.Len(t, sent, i)
		require.GreaterOrEqual(t, joined, 5)
	}
}

func total(sizes []int) (n uint64) {
	for _, s := range sizes {
		n += uint64(s)
	}
	return n
}
