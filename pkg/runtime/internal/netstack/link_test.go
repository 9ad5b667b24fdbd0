package netstack

import (
	"bytes"
	"io"
	"testing"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// capturing is a network card that keeps a copy of what it is sent.
type capturing struct {
	NIC
	frames chan []byte
}

func (c capturing) Send(_ int, _ *vnet.Header, v [][]byte) vnet.Status {
	c.frames <- bytes.Join(v, nil)
	return vnet.Sent
}

// TestHostileSpoofing sends what only others may send.
func TestHostileSpoofing(t *testing.T) {
	g := newGuest(t, Config{})
	eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 0, 0)
	v4 := func(src, dst byte, proto byte) []byte {
		f := append(bytes.Clone(eth), 0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto, 0, 0, 192, 168, 127, src, 10, 0, 0, dst)
		f[12], f[13] = 8, 0
		return append(f, make([]byte, 8)...)
	}
	arp := func(op byte, sender byte, mac byte) []byte {
		f := append(bytes.Clone(eth), 0, 1, 8, 0, 6, 4, 0, op, 0x5a, 0x94, 0xef, 0xe4, 0x0c, mac, 192, 168, 127, sender, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1)
		f[12], f[13] = 8, 6
		return f
	}
	v6 := func(src byte, kind byte) []byte {
		f := append(bytes.Clone(eth), 0x60, 0, 0, 0, 0, 8, 58, 255)
		f[12], f[13] = 0x86, 0xdd
		f = append(f, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, src)
		f = append(f, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
		return append(f, kind, 0, 0, 0, 0, 0, 0, 0)
	}
	for name, frame := range map[string][]byte{
		"another's address":        v4(3, 1, 17),
		"the gateway's address":    v4(1, 1, 6),
		"header length":            append(bytes.Clone(v4(2, 1, 17)[:14]), 0x4f),
		"unspecified, not DHCP":    append(append(append(bytes.Clone(v4(2, 1, 17)[:26]), 0, 0, 0, 0), 1, 1, 1, 1), make([]byte, 8)...),
		"ARP reply":                arp(2, 2, 0xee),
		"ARP for another":          arp(1, 3, 0xee),
		"ARP with another MAC":     arp(1, 2, 0xcc),
		"router advertisement":     v6(1, 134),
		"redirect":                 v6(1, 137),
		"unknown protocol":         append(bytes.Clone(eth), 1, 2, 3),
		"nothing after the header": bytes.Clone(eth),
	} {
		before := g.net.Stats().Dropped
		g.net.Host().Receive(0, &vnet.Header{}, [][]byte{frame[:14], frame[14:]})
		require.Equal(t, before+1, g.net.Stats().Dropped, name)
	}
}

// TestHostileNoRoom has a guest that never gives receive buffers: what waits for it
// is bounded, and the network recovers.
func TestHostileNoRoom(t *testing.T) {
	g := newGuest(t, Config{})
	c := g.udp(0, udpEcho(t))
	require.Equal(t, []byte("x"), exchange(t, c, []byte("x")))
	g.link.refill(0)
	for range 2000 {
		g.net.sendDatagram(udpEchoSource, udpGuest, make([]byte, 8<<10))
	}
	q := &g.net.link.queues[0]
	q.mu.Lock()
	require.LessOrEqual(t, q.waiting, backlogBytes)
	require.NotEmpty(t, q.backlog)
	q.mu.Unlock()
	require.NotZero(t, g.net.Stats().Lost)
	g.link.refill(-1)
	require.Eventually(t, func() bool {
		g.link.refill(-1)
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.backlog) == 0
	}, waitLong, tick)
	require.Equal(t, []byte("y"), exchange(t, c, []byte("y")))
}

// FuzzReceive gives the network any frame.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 127, 2, 192, 168, 127, 1, 0, 68, 0, 67, 0, 8, 0, 0}, uint16(0x800))
	f.Add([]byte{0, 1, 8, 0, 6, 4, 0, 1, 1, 2, 3, 4, 5, 6, 192, 168, 127, 2, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1}, uint16(0x806))
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 32, 58, 255}, make([]byte, 64)...), uint16(0x86dd))
	p, err := newTestPolicy()
	if err != nil {
		f.Fatal(err)
	}
	n, err := New(Config{Policy: p, DNS: noDNS{}})
	if err != nil {
		f.Fatal(err)
	}
	n.Attach(discarding{})
	f.Cleanup(func() { n.Close(); p.Close() })
	f.Fuzz(func(t *testing.T, body []byte, proto uint16) {
		eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), byte(proto>>8), byte(proto))
		n.Host().Receive(0, &vnet.Header{}, [][]byte{eth, body})
		for _, at := range []uint16{header.IPv4MinimumSize, header.IPv6MinimumSize} { // as if it were many datagrams
			n.Host().Receive(0, &vnet.Header{Flags: vnet.NeedsCsum, GSOType: vnet.GSOUDP, GSOSize: uint16(len(body)/10 + 1), CsumStart: ethernetHeader + at, CsumOffset: 6}, [][]byte{eth, body})
		}
	})
}

// discarding is a card that takes everything.
type discarding struct{}

func (discarding) Send(int, *vnet.Header, [][]byte) vnet.Status { return vnet.Sent }
func (discarding) Flush(int)                                    {}
func (discarding) Offloads() vnet.Offloads                      { return fullOffloads }
func (discarding) Pairs() int                                   { return 1 }

// TestCapture reads back what was captured.
func TestCapture(t *testing.T) {
	var file memoryFile
	g := newGuest(t, Config{Capture: &file})
	require.Equal(t, []byte("x"), exchange(t, g.udp(0, udpEcho(t)), []byte("x")))
	g.net.link.queues[0].mu.Lock() // under which the answer is sent, and then recorded
	defer g.net.link.queues[0].mu.Unlock()
	g.net.link.capture.mu.Lock()
	g.net.link.capture.w.Flush()
	g.net.link.capture.mu.Unlock()
	frames, err := readPcap(bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(frames), 4, "ARP and UDP, both ways")
	require.Equal(t, byte('x'), frames[len(frames)-1][14+20+8])
}

type memoryFile struct{ bytes.Buffer }

func (*memoryFile) Close() error { return nil }

func readPcap(r io.Reader) (frames [][]byte, err error) {
	var h [24]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	for {
		var p [16]byte
		if _, err := io.ReadFull(r, p[:]); err == io.EOF {
			return frames, nil
		} else if err != nil {
			return nil, err
		}
		f := make([]byte, uint32(p[8])|uint32(p[9])<<8|uint32(p[10])<<16)
		if _, err := io.ReadFull(r, f); err != nil {
			return nil, err
		}
		frames = append(frames, f)
	}
}
