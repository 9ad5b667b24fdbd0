package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// joiningCard takes many datagrams in a frame, and keeps each frame.
type joiningCard struct {
	discarding
	full bool
	got  []wire
}

func (c *joiningCard) Offloads() vnet.Offloads { return vnet.AllOffloads }

func (c *joiningCard) Send(_ int, h *vnet.Header, v [][]byte) vnet.Status {
	if c.full {
		return vnet.Full
	}
	c.got = append(c.got, wire{*h, bytes.Join(v, nil)})
	return vnet.Sent
}

// quietFlow is an open flow whose socket the test alone reads: it is the card's
// goroutine. Reply sends from the flow's far end.
func quietFlow(t testing.TB, host string, box netip.Addr) (f *udpFlow, card *joiningCard, reply func(p []byte)) {
	server, err := net.ListenPacket("udp", host)
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	g := newGuest(t, Config{})
	dst := netip.AddrPortFrom(box, uint16(server.LocalAddr().(*net.UDPAddr).Port))
	_, err = g.udp(4000, dst).Write([]byte("hello"))
	require.NoError(t, err)
	server.SetReadDeadline(time.Now().Add(waitLong))
	_, from, err := server.ReadFrom(make([]byte, 10))
	require.NoError(t, err)
	g.reset()
	card = &joiningCard{}
	g.net.link.nic = card
	return g.net.udp.flow(flowKey{netip.AddrPortFrom(guestOf(box), 4000), dst}), card, func(p []byte) {
		_, err := server.WriteTo(p, from)
		require.NoError(t, err)
	}
}

// unpack takes a frame apart into its datagrams.
func unpack(t testing.TB, w wire, box netip.Addr) (list [][]byte) {
	udp := ethernetHeader + ipHeaderLen(box)
	p := w.frame[udp+header.UDPMinimumSize:]
	require.EqualValues(t, header.UDPMinimumSize+len(p), header.UDP(w.frame[udp:]).Length())
	want := vnet.Header{Flags: vnet.NeedsCsum, CsumStart: uint16(udp), CsumOffset: udpChecksumOffset}
	each := len(p)
	if w.h.GSOType != vnet.GSONone {
		each = int(w.h.GSOSize)
		require.Greater(t, len(p), each)
		want.GSOType, want.GSOSize, want.HdrLen = vnet.GSOUDP, w.h.GSOSize, uint16(udp+header.UDPMinimumSize)
	}
	require.Equal(t, want, w.h)
	if len(p) == 0 {
		return [][]byte{p}
	}
	return slices.Collect(slices.Chunk(p, each))
}

// times is a list of n times the same number.
func times(n, of int) []int { return slices.Repeat([]int{of}, n) }

// TestJoinedDatagrams has what is there together go to the guest in one frame where
// that is allowed, and come out as it was sent.
func TestJoinedDatagrams(t *testing.T) {
	for name, c := range map[string]struct{ sizes, frames []int }{
		"one":                    {[]int{1400}, []int{1}},
		"of one size":            {times(4, 1200), []int{4}},
		"and a shorter one":      {[]int{1200, 1200, 700}, []int{3}},
		"which is the last":      {[]int{1200, 700, 1200}, []int{2, 1}},
		"and a longer one":       {[]int{1200, 1400, 1400}, []int{1, 2}},
		"empty":                  {[]int{0, 0, 5, 0}, []int{1, 1, 1, 1}},
		"as many as a burst":     {times(burst+30, 10), []int{burst, 30}},
		"more than an IP packet": {times(60, 1400), []int{joinedMost / 1400, 60 - joinedMost/1400}},
	} {
		for host, box := range map[string]netip.Addr{"127.0.0.1:0": Host4, "[::1]:0": Host6} {
			f, card, reply := quietFlow(t, host, box)
			var sent, got [][]byte
			for i, n := range c.sizes {
				sent = append(sent, bytes.Repeat([]byte{byte(i)}, n))
				reply(sent[i])
			}
			for drained := false; !drained; {
				_, drained = f.serve(readable)
			}
			var frames []int
			for _, w := range card.got {
				list := unpack(t, w, box)
				frames, got = append(frames, len(list)), append(got, list...)
			}
			require.Equal(t, c.frames, frames, "%s to %v", name, box)
			for i := range sent {
				require.True(t, bytes.Equal(sent[i], got[i]), "%s to %v: datagram %d", name, box, i)
			}
		}
	}
}

// TestJoinedDatagramsWait has a guest without room get them one by one when it has some.
func TestJoinedDatagramsWait(t *testing.T) {
	f, card, reply := quietFlow(t, "127.0.0.1:0", Host4)
	card.full = true
	var sent [][]byte
	for i := range 5 {
		sent = append(sent, bytes.Repeat([]byte{byte(i)}, 100-i/4))
		reply(sent[i])
	}
	f.serve(readable)
	require.Empty(t, card.got)
	card.full = false
	f.table.net.link.Ready(0)
	var got [][]byte
	for _, w := range card.got {
		got = append(got, unpack(t, w, Host4)...)
	}
	require.Len(t, card.got, 5)
	require.Equal(t, sent, got)
}

// TestReceivingAllocatesNothing holds the way from a socket to the guest to that.
func TestReceivingAllocatesNothing(t *testing.T) {
	f, _, reply := quietFlow(t, "127.0.0.1:0", Host4)
	f.table.net.link.nic = discarding{}
	p := make([]byte, 1200)
	f.serve(readable) // the pool's first buffer
	require.Less(t, testing.AllocsPerRun(100, func() {
		reply(p)
		f.serve(readable)
	}), 2.0) // WriteTo has one, and a collection may empty the pool
}
