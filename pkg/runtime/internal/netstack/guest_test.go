package netstack

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guest is a guest's kernel and network card: another stack at the other end of
// the cable, which resolves neighbours and segments as Linux does.
type guest struct {
	t     testing.TB
	net   *Network
	stack *stack.Stack
	link  *guestLink
	bell  *virtio.Doorbell
	reset func() // of the network card: no frame goes either way afterwards
}

// wire is one frame on its way.
type wire struct {
	h     vnet.Header
	frame []byte
}

// guestLink is the guest's driver, and the card as the host sees it.
type guestLink struct {
	dispatcher stack.NetworkDispatcher
	host       vnet.Host
	tx, rx     chan wire
	offloads   vnet.Offloads

	lose int // the guest's driver loses one frame in so many; 0 for none

	mu   sync.Mutex
	room int  // frames that the receive ring takes, -1 for any number
	full bool // the card had no room, and has to say when it has again
}

const fullOffloads = vnet.OffloadCsum | vnet.OffloadTSO4 | vnet.OffloadTSO6

// newGuest starts a network and its guest. Everything is gone at the end of the test.
func newGuest(t testing.TB, cfg Config) *guest {
	return newGuestWith(t, cfg, func(g *guest) NIC { return g.link })
}

// newGuestWith is newGuest with another card.
func newGuestWith(t testing.TB, cfg Config, card func(*guest) NIC) *guest {
	t.Helper()
	if cfg.Policy == nil {
		cfg.Policy = policy(t, egress.Config{AllowHost: true})
	}
	n, err := New(cfg)
	require.NoError(t, err)
	g := &guest{t: t, net: n, link: &guestLink{host: n.Host(), tx: make(chan wire, 1024), rx: make(chan wire, 1024), offloads: fullOffloads, room: -1}}
	n.Attach(card(g))
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	require.Nil(t, g.stack.CreateNIC(1, g.link))
	require.Nil(t, g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: withPrefix(Guest4, 24)}, stack.AddressProperties{}))
	require.Nil(t, g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: withPrefix(Guest6, 64)}, stack.AddressProperties{}))
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet(Subnet4.String()), NIC: 1}, {Destination: subnet("0.0.0.0/0"), Gateway: toTCPIP(Gateway4), NIC: 1},
		{Destination: subnet(Subnet6.String()), NIC: 1}, {Destination: subnet("::/0"), Gateway: toTCPIP(Gateway6), NIC: 1},
	})
	bell, err := virtio.NewDoorbell()
	require.NoError(t, err)
	g.bell = bell
	var pumps sync.WaitGroup
	stop := make(chan struct{})
	pumps.Go(func() { // the goroutine of the card's queues
		for n.link.Await(0, bell, true) {
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	pumps.Go(func() { g.link.transmit(bell, stop) })
	pumps.Go(func() { g.link.receive(stop) })
	g.reset = sync.OnceFunc(func() {
		close(stop)
		bell.Ring()
		pumps.Wait()
		require.NoError(t, bell.Close())
	})
	t.Cleanup(func() {
		g.reset()
		g.stack.Destroy()
		require.NoError(t, n.Close())
	})
	return g
}

// scatter has a packet lie in several places, as in a guest's memory.
func scatter(eth, packet []byte) [][]byte {
	a, b := len(packet)/3, len(packet)*3/4
	return [][]byte{eth, packet[:a:a], packet[a:b:b], packet[b:]}
}

// What tests wait for at most, and how often they look.
const (
	waitLong = 2 * time.Minute
	tick     = time.Millisecond
)

// Two ends of a flow of datagrams.
var (
	udpEchoSource = netip.MustParseAddrPort("192.0.2.1:7")
	udpGuest      = netip.AddrPortFrom(Guest4, 7)
)

func newTestPolicy() (*egress.Policy, error) { return makePolicy(egress.Config{AllowHost: true}) }

func makePolicy(c egress.Config) (*egress.Policy, error) {
	return egress.New(c, egress.Options{
		HostName: HostName, HostAddrs: []netip.Addr{Host4, Host6}, Subnets: []netip.Prefix{Subnet4, Subnet6},
	})
}

func policy(t testing.TB, c egress.Config) *egress.Policy {
	t.Helper()
	p, err := makePolicy(c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func (l *guestLink) transmit(bell *virtio.Doorbell, stop chan struct{}) {
	for {
		select {
		case w := <-l.tx:
			l.host.Receive(0, &w.h, scatter(w.frame[:ethernetHeader], w.frame[ethernetHeader:]))
			bell.Ring() // as the card's goroutine comes to wait after all that it received
		case <-stop:
			return
		}
	}
}

func (l *guestLink) receive(stop chan struct{}) {
	for {
		select {
		case w := <-l.rx:
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(w.frame)})
			if h, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); ok {
				pkt.NetworkProtocolNumber = header.Ethernet(h).Type()
				l.dispatcher.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			}
			pkt.DecRef()
			l.mu.Lock()
			full := l.full
			l.full = false
			l.mu.Unlock()
			if full {
				l.host.Ready(0)
			}
		case <-stop:
			return
		}
	}
}

// Send implements [NIC].
func (l *guestLink) Send(_ int, h *vnet.Header, v [][]byte) vnet.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room == 0 {
		return vnet.Full
	}
	var frame []byte
	for _, b := range v {
		frame = append(frame, b...)
	}
	select {
	case l.rx <- wire{*h, frame}:
	default:
		l.full = true
		return vnet.Full
	}
	if l.room > 0 {
		l.room--
	}
	return vnet.Sent
}

func (l *guestLink) Flush(int)               {}
func (l *guestLink) Offloads() vnet.Offloads { return l.offloads }
func (l *guestLink) Pairs() int              { return 1 }

// refill makes room for so many frames.
func (l *guestLink) refill(n int) {
	l.mu.Lock()
	l.room = n
	l.mu.Unlock()
	l.host.Ready(0)
}

// WritePackets implements [stack.LinkWriter].
func (l *guestLink) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if l.lose > 0 && rand.IntN(l.lose) == 0 {
			continue
		}
		v := pkt.ToView()
		select {
		case l.tx <- wire{offloads(pkt), append([]byte(nil), v.AsSlice()...)}:
			n++
		default: // as a real queue
		}
		v.Release()
	}
	return n, nil
}

func (l *guestLink) MTU() uint32                      { return 1500 }
func (l *guestLink) SetMTU(uint32)                    {}
func (l *guestLink) MaxHeaderLength() uint16          { return header.EthernetMinimumSize }
func (l *guestLink) LinkAddress() tcpip.LinkAddress   { return guestMAC }
func (l *guestLink) SetLinkAddress(tcpip.LinkAddress) {}
func (l *guestLink) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}
func (l *guestLink) GSOMaxSize() uint32                       { return gsoMax }
func (l *guestLink) SupportedGSO() stack.SupportedGSO         { return stack.HostGSOSupported }
func (l *guestLink) Attach(d stack.NetworkDispatcher)         { l.dispatcher = d }
func (l *guestLink) IsAttached() bool                         { return l.dispatcher != nil }
func (l *guestLink) Wait()                                    {}
func (l *guestLink) Close()                                   {}
func (l *guestLink) SetOnCloseAction(func())                  {}
func (l *guestLink) ARPHardwareType() header.ARPHardwareType  { return header.ARPHardwareEther }
func (l *guestLink) ParseHeader(pkt *stack.PacketBuffer) bool { return true }
func (l *guestLink) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: guestMAC, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

// dial connects from the guest.
func (g *guest) dial(addr netip.AddrPort) (net.Conn, error) {
	return gonet.DialContextTCP(context.Background(), g.stack, tcpip.FullAddress{Addr: toTCPIP(addr.Addr()), Port: addr.Port()}, networkOf(addr.Addr()))
}

// listen listens in the guest.
func (g *guest) listen(port uint16) net.Listener {
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{Addr: toTCPIP(Guest4), Port: port}, ipv4.ProtocolNumber)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { l.Close() })
	return l
}

// server is a TCP server on the host's loopback that gives each connection to f.
func server(t testing.TB, f func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return netip.AddrPortFrom(Host4, uint16(l.Addr().(*net.TCPAddr).Port))
}

func echoServer(t testing.TB) netip.AddrPort {
	return server(t, func(c net.Conn) { io.Copy(c, c) })
}
