package netstack

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// many is how often something is tried: few times with every change, and as often as
// the list of attacks has it where BOXLITE_SOAK asks for long tests.
func many(few, full int) int {
	if machinetest.Soak() {
		return full
	}
	return few
}

// usage is what the process has in use.
type usage struct {
	heap            uint64
	goroutines, fds int
}

func measure(t *testing.T) usage {
	t.Helper()
	u := count(t)
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap = m.HeapAlloc
	return u
}

// count is measure without the heap, which takes long.
func count(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir("/dev/fd")
	require.NoError(t, err)
	return usage{goroutines: runtime.NumGoroutine(), fds: len(fds)}
}

// requireWithin holds what is in use now to what was before and so much more.
func requireWithin(t *testing.T, before, more usage) {
	t.Helper()
	now := measure(t)
	require.LessOrEqual(t, now.heap, before.heap+more.heap, "bytes of heap")
	require.LessOrEqual(t, now.goroutines, before.goroutines+more.goroutines, "goroutines")
	require.LessOrEqual(t, now.fds, before.fds+more.fds, "descriptors")
}

// requireSettled waits until what is in use is again what it was before and so much more.
// It is the one goroutine of the test that looks.
func requireSettled(t *testing.T, before, more usage, again func()) {
	t.Helper()
	for end := time.Now().Add(waitLong); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		again()
		if now := count(t); now.goroutines <= before.goroutines+more.goroutines && now.fds <= before.fds+more.fds {
			break
		}
	}
	requireWithin(t, before, more)
}

// hostileGuest has a network card that its kernel sees only at times: else the test
// sends frames of its own making, and nobody answers but the test.
type hostileGuest struct {
	*guest
	deaf atomic.Bool
	took func(packet []byte) // what the card is sent while it is deaf; may be nil
}

func newHostile(t *testing.T, cfg Config) *hostileGuest {
	return newHostileWith(t, cfg, func(c hostileCard) NIC { return c })
}

// newHostileWith is newHostile with another card.
func newHostileWith(t *testing.T, cfg Config, card func(hostileCard) NIC) *hostileGuest {
	h := &hostileGuest{}
	h.deaf.Store(true)
	h.guest = newGuestWith(t, cfg, func(g *guest) NIC { return card(hostileCard{g.link, h}) })
	return h
}

type hostileCard struct {
	*guestLink
	h *hostileGuest
}

func (c hostileCard) Send(q int, h *vnet.Header, v [][]byte) vnet.Status {
	if !c.h.deaf.Load() {
		return c.guestLink.Send(q, h, v)
	}
	if f := c.h.took; f != nil {
		var frame []byte
		for _, b := range v {
			frame = append(frame, b...)
		}
		f(frame[ethernetHeader:])
	}
	return vnet.Sent
}

// send gives the network a packet.
func (h *hostileGuest) send(packet []byte) {
	eth := append(append(append([]byte{}, GatewayMAC...), GuestMAC...), 8, 0)
	if packet[0]>>4 == 6 {
		eth[12], eth[13] = 0x86, 0xdd
	}
	h.net.Host().Receive(0, &vnet.Header{}, scatter(eth, packet))
	h.bell.Ring() // as the card's goroutine comes to wait after all that it received
}

// tcpPacket is a TCP segment of the guest's.
func tcpPacket(src uint16, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, window uint16) []byte {
	return packet(dst.Addr(), header.TCPProtocolNumber, func(b []byte) {
		header.TCP(b).Encode(&header.TCPFields{
			SrcPort: src, DstPort: dst.Port(), SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: window,
		})
	}, header.TCPMinimumSize, header.TCPChecksumOffset)
}

func datagram(src uint16, dst netip.AddrPort, size int) []byte {
	return packet(dst.Addr(), header.UDPProtocolNumber, func(b []byte) {
		header.UDP(b).Encode(&header.UDPFields{SrcPort: src, DstPort: dst.Port(), Length: uint16(len(b))})
	}, header.UDPMinimumSize+size, udpChecksumOffset)
}

func echoRequest(dst netip.Addr, ident uint16) []byte {
	if dst.Is4() {
		p := packet(dst, header.ICMPv4ProtocolNumber, func(b []byte) { b[0] = byte(header.ICMPv4Echo); header.ICMPv4(b).SetIdent(ident) }, 16, -1)
		header.ICMPv4(p[header.IPv4MinimumSize:]).SetChecksum(^checksum.Checksum(p[header.IPv4MinimumSize:], 0))
		return p
	}
	return packet(dst, header.ICMPv6ProtocolNumber, func(b []byte) { b[0] = byte(header.ICMPv6EchoRequest); header.ICMPv4(b).SetIdent(ident) }, 16, 2)
}

// packet makes one from the guest, with a checksum at an offset that is not negative.
func packet(dst netip.Addr, proto tcpip.TransportProtocolNumber, fill func([]byte), size, sumAt int) []byte {
	body := make([]byte, size)
	fill(body)
	src := toTCPIP(guestOf(dst))
	if sumAt >= 0 {
		binary.BigEndian.PutUint16(body[sumAt:], 0)
		sum := header.PseudoHeaderChecksum(proto, src, toTCPIP(dst), uint16(size))
		binary.BigEndian.PutUint16(body[sumAt:], ^checksum.Checksum(body, sum))
	}
	if dst.Is4() {
		return append(ipv4Header(src, toTCPIP(dst), proto, size), body...)
	}
	return append(ipv6Header(src, toTCPIP(dst), proto, size), body...)
}

// honest has the guest's kernel see its card again, and use it.
func (h *hostileGuest) honest() {
	h.t.Helper()
	h.deaf.Store(false)
	defer h.deaf.Store(true)
	c, err := h.dial(echoServer(h.t))
	require.NoError(h.t, err)
	require.Equal(h.t, "honest", string(exchange(h.t, c, []byte("honest"))))
	require.NoError(h.t, c.Close())
	require.Len(h.t, insist(h.t, h.udp(0, udpEcho(h.t)), make([]byte, 9000)), 9000, "in fragments")
}

// TestHostile36SYNFlood begins connections and never goes on with them, and then ends
// each by a reset.
func TestHostile36SYNFlood(t *testing.T) {
	h := newHostile(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0") // its kernel accepts
	require.NoError(t, err)
	defer l.Close()
	open := netip.AddrPortFrom(Host4, uint16(l.Addr().(*net.TCPAddr).Port))
	resets := h.answers()
	h.honest() // what is made when it is first needed is there
	before := measure(t)
	for i := range many(2500, 100_000) {
		to := open
		if i%4 == 0 { // to nobody
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
		}
		h.send(tcpPacket(uint16(1024+i%60_000), to, header.TCPFlagSyn, uint32(i), 0, 65535))
	}
	more := usage{heap: 64 << 20, goroutines: 3*maxOpening + 100, fds: maxOpening + 100}
	requireWithin(t, before, more)
	// Resets for what was answered by now, and for what is still to come.
	requireSettled(t, before, usage{heap: 32 << 20, goroutines: 20, fds: 20}, func() { resets(open) })
	h.honest()
}

// answers has the guest note which of its attempts to connect were answered. The
// result ends those, as a kernel does that knows of none of them.
func (h *hostileGuest) answers() (reset func(netip.AddrPort)) {
	var mu sync.Mutex
	answered := map[uint16]uint32{}
	h.took = func(p []byte) {
		if p[9] == uint8(header.TCPProtocolNumber) {
			if s := header.TCP(p[header.IPv4MinimumSize:]); s.Flags().Contains(header.TCPFlagSyn) {
				mu.Lock()
				answered[s.DestinationPort()] = s.AckNumber()
				mu.Unlock()
			}
		}
	}
	return func(to netip.AddrPort) {
		mu.Lock()
		now := maps.Clone(answered)
		clear(answered)
		mu.Unlock()
		for port, seq := range now {
			h.send(tcpPacket(port, to, header.TCPFlagRst, seq, 0, 0))
		}
	}
}

// TestHostile36SYNRST begins connections and resets each at once.
func TestHostile36SYNRST(t *testing.T) {
	h := newHostile(t, Config{})
	to := server(t, func(net.Conn) {})
	resets := h.answers()
	h.honest() // what is made when it is first needed is there
	before := measure(t)
	for i := range many(2000, 20_000) {
		port := uint16(1024 + i%60_000)
		h.send(tcpPacket(port, to, header.TCPFlagSyn, uint32(i), 0, 65535))
		h.send(tcpPacket(port, to, header.TCPFlagRst, uint32(i)+1, 0, 0))
	}
	requireWithin(t, before, usage{heap: 64 << 20, goroutines: 4*maxOpening + 100, fds: 2*maxOpening + 100})
	// Some resets came too early to be of anything.
	requireSettled(t, before, usage{heap: 32 << 20, goroutines: 20, fds: 20}, func() { resets(to) })
	h.honest()
}

// TestHostile36Fragments sends beginnings of packets that never end, overlaps, and
// parts that lie about where they are.
func TestHostile36Fragments(t *testing.T) {
	h := newHostile(t, Config{})
	to := udpEcho(t)
	h.honest() // what is made when it is first needed is there
	before := measure(t)
	fragment := func(id, offset int, more bool, size int) {
		p := datagram(4000, to, size)
		ip := header.IPv4(p)
		flags := uint8(0)
		if more {
			flags = header.IPv4FlagMoreFragments
		}
		ip.SetID(uint16(id))
		ip.SetFlagsFragmentOffset(flags, uint16(offset))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		h.send(p)
	}
	for i := range many(6000, 30_000) { // 8 or 40 MB, none of which is ever whole
		fragment(i, 0, true, 1400)
	}
	for i := range many(1000, 5000) {
		fragment(i, 8*i%60_000, true, 1400)
		fragment(i, 8*i%60_000+8, true, 1400) // over the one before
		fragment(i, 65_528, false, 1400)      // beyond the largest packet
		fragment(i, 0, true, 3)               // in no eights
	}
	for i := range many(6000, 30_000) { // IPv6
		p := datagram(4000, netip.AddrPortFrom(Host6, to.Port()), 1400)
		ext := make([]byte, 8)
		ext[0] = uint8(header.UDPProtocolNumber)
		binary.BigEndian.PutUint16(ext[2:], 1) // more follow
		binary.BigEndian.PutUint32(ext[4:], uint32(i))
		ip := append(append(p[:header.IPv6MinimumSize:header.IPv6MinimumSize], ext...), p[header.IPv6MinimumSize:]...)
		ip[6] = 44
		header.IPv6(ip).SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
		h.send(ip)
	}
	requireWithin(t, before, usage{heap: 32 << 20, goroutines: 20, fds: 5})
	h.honest()
}

// TestHostile36ZeroWindow opens connections, takes none of what is sent on them, and
// sends what nobody takes.
func TestHostile36ZeroWindow(t *testing.T) {
	conns := many(100, 600)
	h := newHostile(t, Config{})
	var sending atomic.Int64
	to := server(t, func(c net.Conn) {
		sending.Add(1)
		defer context.AfterFunc(t.Context(), func() { c.Close() })()
		io.Copy(c, endless{})
	})
	h.took = func(p []byte) {
		if p[9] != uint8(header.TCPProtocolNumber) {
			return
		}
		if s := header.TCP(p[header.IPv4MinimumSize:]); s.Flags() == header.TCPFlagSyn|header.TCPFlagAck {
			// On a goroutine: the network is in the middle of sending.
			go h.send(tcpPacket(s.DestinationPort(), to, header.TCPFlagAck, s.AckNumber(), s.SequenceNumber()+1, 0))
		}
	}
	h.honest() // what is made when it is first needed is there
	before := measure(t)
	for i := range conns {
		h.send(tcpPacket(uint16(2000+i), to, header.TCPFlagSyn, uint32(i), 0, 0))
	}
	require.Eventually(t, func() bool { return sending.Load() >= int64(conns) }, waitLong, tick)
	require.Eventually(t, func() bool { // until all buffers are full
		was := h.held()
		time.Sleep(100 * time.Millisecond)
		return h.held() == was
	}, waitLong, tick)
	// Beside buffers of the network, a goroutine each for what the server does.
	requireWithin(t, before, usage{heap: uint64(ringTotal + conns*(minRing+48<<10)), goroutines: 5*conns + 100, fds: 2*conns + 100})
	h.honest()
}

// held are the bytes that connections have room for.
func (h *hostileGuest) held() (n uint64) {
	return uint64(h.net.tcp.memory.used.Load())
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestHostile36UDPFlows opens more flows of datagrams than there may be by far.
func TestHostile36UDPFlows(t *testing.T) {
	h := newHostile(t, Config{})
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer sink.Close()
	port := uint16(sink.LocalAddr().(*net.UDPAddr).Port)
	h.honest() // what is made when it is first needed is there
	before := measure(t)
	for i := range many(8000, 50_000) {
		h.send(datagram(uint16(1024+i), netip.AddrPortFrom(Host4, port), 100))
	}
	requireWithin(t, before, usage{heap: 64 << 20, goroutines: maxUDP + 2000, fds: maxUDP + 2000})
	require.Eventually(t, func() bool { return h.net.Stats().UDPActive <= maxUDP }, waitLong, tick)
	for i := range many(8000, 50_000) { // and as many that are denied
		h.send(datagram(uint16(1024+i), netip.MustParseAddrPort("10.0.0.1:53"), 100))
	}
	requireWithin(t, before, usage{heap: 64 << 20, goroutines: maxUDP + 2000, fds: maxUDP + 2000})
	h.honest()
}

// TestHostile36WaitingDatagrams sends large datagrams to whom somebody has to be asked
// about, and nobody answers.
func TestHostile36WaitingDatagrams(t *testing.T) {
	h := newHostile(t, Config{Policy: asking(t)})
	before := measure(t)
	most := min(waitingBytes, h.net.limit.opening*flowWaiting)
	for i := range h.net.limit.opening {
		for range flowWaiting/60_000 + 1 {
			h.send(datagram(uint16(1024+i), netip.MustParseAddrPort("93.184.216.34:443"), 60_000))
		}
	}
	require.LessOrEqual(t, h.net.udp.waiting.Load(), int64(most))
	require.Greater(t, h.net.udp.waiting.Load(), int64(most/2))
	requireWithin(t, before, usage{heap: waitingBytes + 16<<20, goroutines: 2*maxOpening + 20, fds: 20})
	h.reset()
	require.NoError(t, h.net.Close())
	require.Zero(t, h.net.udp.waiting.Load())
}

// TestHostile36Pings asks everybody at once.
func TestHostile36Pings(t *testing.T) {
	h := newHostile(t, Config{Policy: policy(t, egress.Config{})})
	before := measure(t)
	for i := range many(5000, 20_000) {
		h.send(echoRequest(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), uint16(i)))
	}
	requireWithin(t, before, usage{heap: 16 << 20, goroutines: 3*maxPings + 20, fds: maxPings + 20})
}

// TestHostile37Destinations tries what is not for boxes, by every protocol. Not one
// of the host's sockets may be opened for it.
func TestHostile37Destinations(t *testing.T) {
	var mu sync.Mutex
	judged := map[string]bool{}
	p := policy(t, egress.Config{Rules: []egress.Rule{mustAllow(t, "good.example"), mustAllow(t, "0.0.0.0/0"), mustAllow(t, "::/0")}})
	h := newHostile(t, Config{Policy: p, Flows: func(f Flow) {
		mu.Lock()
		defer mu.Unlock()
		judged[f.Protocol.String()+" "+f.Dst.Addr().String()] = true
		if f.Verdict.Allow || f.Sent+f.Received > 0 {
			t.Errorf("%v to %v: %+v", f.Protocol, f.Dst, f.Verdict)
		}
	}})
	h.net.tcp.where = func(dst netip.AddrPort) netip.AddrPort {
		t.Errorf("dialed %v", dst)
		return dst
	}
	h.took = func(p []byte) { // only resets and refusals come back
		body, proto := p[header.IPv4MinimumSize:], p[9]
		if p[0]>>4 == 6 {
			body, proto = p[header.IPv6MinimumSize:], p[6]
		}
		switch proto {
		case uint8(header.TCPProtocolNumber):
			if !header.TCP(body).Flags().Contains(header.TCPFlagRst) {
				t.Errorf("a segment with flags %v", header.TCP(body).Flags())
			}
		case uint8(header.ICMPv4ProtocolNumber):
			if header.ICMPv4(body).Type() != header.ICMPv4DstUnreachable {
				t.Errorf("ICMP %v", header.ICMPv4(body).Type())
			}
		case uint8(header.ICMPv6ProtocolNumber):
			if k := header.ICMPv6(body).Type(); k != header.ICMPv6DstUnreachable && k != header.ICMPv6ParamProblem {
				t.Errorf("ICMPv6 %v", k)
			}
		default:
			t.Errorf("protocol %d", proto)
		}
	}
	before := measure(t)
	var destinations []netip.Addr
	for _, s := range []string{
		"192.168.127.254", "192.168.127.3", "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200",
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "0.0.0.1", "240.0.0.1",
		"fd62:6f78:6c69::fe", "fd62:6f78:6c69::3", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fec0::1", "2002:7f00:1::1", "2001::1",
		"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::1", "::7f00:1", "100::1", "4000::1",
	} {
		destinations = append(destinations, netip.MustParseAddr(s))
	}
	p.Pin("good.example", destinations, time.Hour) // as its server says: rebinding
	// Besides those that the stack itself throws away: as if they came from a wire.
	martians := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.1.2.3"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
		netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("192.168.127.255"), netip.MustParseAddr("::1"), netip.MustParseAddr("::"), netip.MustParseAddr("ff02::1"),
		netip.AddrFrom16(netip.MustParseAddr("::ffff:127.0.0.1").As16()), netip.AddrFrom16(netip.MustParseAddr("::ffff:169.254.169.254").As16()),
	}
	for i, a := range append(destinations, martians...) {
		port := uint16(5000 + i)
		h.send(tcpPacket(port, netip.AddrPortFrom(a, 80), header.TCPFlagSyn, 1, 0, 65535))
		h.send(datagram(port, netip.AddrPortFrom(a, 53), 10))
		h.send(echoRequest(a, port))
	}
	// The gateway has a name server and DHCP, and nothing else.
	for _, a := range []netip.Addr{Gateway4, Gateway6} {
		for _, port := range []uint16{22, 53, 80, 443, 2375} {
			h.send(tcpPacket(6000+port, netip.AddrPortFrom(a, port), header.TCPFlagSyn, 1, 0, 65535))
			h.send(datagram(6000+port, netip.AddrPortFrom(a, port), 10))
		}
	}
	var missing []string
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		missing = nil
		for _, a := range destinations {
			for _, proto := range []string{"tcp ", "udp ", "icmp "} {
				if !judged[proto+a.String()] {
					missing = append(missing, proto+a.String())
				}
			}
		}
		return missing == nil
	}, waitLong, tick, "%v", &missing)
	requireWithin(t, before, usage{heap: 32 << 20, goroutines: 4 * len(destinations), fds: 0})
}

func mustAllow(t *testing.T, text string) egress.Rule {
	t.Helper()
	r, err := egress.ParseRule(egress.Allow, text)
	require.NoError(t, err)
	return r
}

// TestHostileEchoBehindExtension hides echo requests and solicitations, which the
// stack would answer for whomever they are for.
func TestHostileEchoBehindExtension(t *testing.T) {
	h := newHostile(t, Config{})
	h.took = func(p []byte) { t.Errorf("answered: %x", p) }
	for name, ext := range map[string][]byte{
		"options":            {58, 0, 1, 4, 0, 0, 0, 0},
		"two of them":        {60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0},
		"first fragment":     {58, 0, 0, 1, 0, 0, 0, 1},
		"options, cut short": {58, 200, 1, 4, 0, 0, 0, 0},
		"no end":             {60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0},
	} {
		for _, dst := range []netip.Addr{Gateway6, Host6, netip.MustParseAddr("2606:4700::1111")} {
			p := echoRequest(dst, 1)
			p = append(append(p[:header.IPv6MinimumSize:header.IPv6MinimumSize], ext...), p[header.IPv6MinimumSize:]...)
			p[6] = 60
			if name == "first fragment" {
				p[6] = 44
			}
			header.IPv6(p).SetPayloadLength(uint16(len(p) - header.IPv6MinimumSize))
			before := h.net.Stats().Dropped
			h.send(p)
			want := before + 1
			if name == "first fragment" {
				want = before // waits for the others
			}
			require.Equal(t, want, h.net.Stats().Dropped, "%s to %v", name, dst)
		}
	}
	p := tcpPacket(1, netip.AddrPortFrom(Gateway6, 80), header.TCPFlagSyn, 1, 0, 1)
	routed := append(append(p[:header.IPv6MinimumSize:header.IPv6MinimumSize], 6, 0, 0, 0, 0, 0, 0, 0), p[header.IPv6MinimumSize:]...)
	routed[6] = 43
	header.IPv6(routed).SetPayloadLength(uint16(len(routed) - header.IPv6MinimumSize))
	h.send(routed)
	require.EqualValues(t, 13, h.net.Stats().Dropped)
}

// TestCloseFreesEverything has a network end in the middle of all that it can do.
func TestCloseFreesEverything(t *testing.T) {
	before := measure(t)
	t.Run("busy", func(t *testing.T) {
		h := newHostile(t, Config{DNS: noDNS{}, Capture: new(memoryFile)})
		h.honest()
		h.deaf.Store(false)
		for range 50 {
			c, err := h.dial(echoServer(t))
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
			_, err = c.Write(make([]byte, 1000))
			require.NoError(t, err)
		}
		h.deaf.Store(true)
		to := udpEcho(t)
		echo := echoServer(t)
		for i := range uint16(500) {
			h.send(datagram(1024+i, to, 10))
			h.send(datagram(1024+i, netip.MustParseAddrPort("10.0.0.1:1"), 10)) // denied
			h.send(echoRequest(netip.MustParseAddr("10.0.0.1"), i))
			h.send(tcpPacket(1024+i, netip.MustParseAddrPort("10.0.0.1:80"), header.TCPFlagSyn, 1, 0, 1))
			h.send(tcpPacket(2024+i, echo, header.TCPFlagSyn, 1, 0, 1)) // never goes on
		}
		for range 5 {
			for _, p := range []egress.Protocol{egress.TCP, egress.UDP} {
				_, err := h.net.AddPort(Port{Protocol: p, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80})
				require.NoError(t, err)
			}
		}
		h.reset()
		require.NoError(t, h.net.Close())
		require.NoError(t, h.net.Close(), "twice")
		_, err := h.net.AddPort(Port{Protocol: egress.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80})
		require.Error(t, err)
		s := h.net.Stats()
		require.Zero(t, s.TCPActive+s.UDPActive)
	})
	requireSettled(t, before, usage{heap: 8 << 20}, func() {})
}
