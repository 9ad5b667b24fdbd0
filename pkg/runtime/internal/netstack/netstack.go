// Package netstack is the network of one box, all of it in the VMM process. At the
// other end of the box's virtio network card, it turns the guest's connections and
// flows of datagrams into sockets of the host. Frames are handed over in memory and
// TCP segments of up to 64 KiB in one piece; there is no helper process or privilege
// in between. A user-mode TCP/IP stack (gVisor's) sees to what is rare: fragments,
// echo requests, and the gateway's own name server.
//
// The box's network is a link with two ends, see [Addresses]. The guest's end sends
// from its own addresses only; whatever else it does, nobody but itself sees it.
// What it may reach is decided by an [egress.Policy], for each connection and each
// flow of datagrams.
//
// A Network's methods may be called from any goroutine.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Config describes the network of a box.
type Config struct {
	// MTU of the link in bytes, 1280 to 65520. 0 means [DefaultMTU].
	MTU int
	// Queues is the number of queue pairs of the network card; 0 means 1.
	Queues int
	// Policy decides what the guest may reach. Required.
	Policy *egress.Policy
	// DNS answers the guest's queries. nil means that there is no name server.
	DNS DNS
	// Hostname is what DHCP tells the guest it is called.
	Hostname string
	// Capture, when not nil, receives every frame in pcap format. The network
	// closes it.
	Capture Capture
	// Flows, when not nil, is told how each connection and each flow of datagrams
	// ended. Any goroutine may call it; it must not block.
	Flows func(Flow)
	// Log receives diagnostics at a bounded rate. nil means none.
	Log *slog.Logger
}

// DefaultMTU is the MTU of a box's link; docs/BENCHMARKS.md says why.
const DefaultMTU = 1500

const (
	minMTU = 1280 // RFC 8200 §5
	maxMTU = 65520
)

// nicID is the stack's one interface.
const nicID tcpip.NICID = 1

// Network is the host's end of a box's network.
type Network struct {
	cfg   Config
	log   *slog.Logger
	stack *stack.Stack
	link  *link
	tcp   *tcpTable
	udp   *udpTable
	ping  *pinger
	ports *portTable
	count counters
	limit limits

	sockets sockets

	queries      atomic.Int64 // under way at the name server
	unreachables *rate.Limiter

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	crew   crew
}

// NIC is the guest's network card, as package virtio/net has it.
type NIC interface {
	Send(q int, h *vnet.Header, v [][]byte) vnet.Status
	Flush(q int)
	Offloads() vnet.Offloads
	Pairs() int
}

// DNS is the box's name server, as package dnsproxy has it.
type DNS interface {
	// Handle answers a query in at most so many bytes; nil means no answer.
	Handle(ctx context.Context, query []byte, maxSize int) []byte
	// ServeStream answers the queries of a connection until it or ctx ends.
	ServeStream(ctx context.Context, conn net.Conn)
}

// New makes a network. Frames flow once [Network.Attach] has been called.
func New(cfg Config) (*Network, error) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if cfg.Queues == 0 {
		cfg.Queues = 1
	}
	switch {
	case cfg.MTU < minMTU || cfg.MTU > maxMTU:
		return nil, fmt.Errorf("netstack: MTU %d: want %d to %d", cfg.MTU, minMTU, maxMTU)
	case cfg.Policy == nil:
		return nil, errors.New("netstack: no egress policy")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{cfg: cfg, log: cfg.Log, limit: processLimits(), unreachables: rate.NewLimiter(1000, 50)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.sockets.start(n); err != nil {
		n.cancel()
		return nil, fmt.Errorf("netstack: %w", err)
	}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	n.link = newLink(n)
	n.tcp = newTCPTable(n)
	n.udp = newUDPTable(n)
	n.ping = newPinger(n)
	n.ports = newPortTable(n)
	if err := n.setUp(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// setUp gives the stack its interface, addresses, routes and handlers.
func (n *Network) setUp() error {
	if err := n.stack.CreateNIC(nicID, n.link); err != nil {
		return fmt.Errorf("netstack: interface: %v", err)
	}
	for _, a := range []tcpip.ProtocolAddress{
		{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: withPrefix(Gateway4, Subnet4.Bits())},
		{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: withPrefix(Gateway6, Subnet6.Bits())},
	} {
		if err := n.stack.AddProtocolAddress(nicID, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("netstack: address %v: %v", a, err)
		}
	}
	// The guest is the only neighbour, and every address in the world is on its
	// other side: here.
	n.stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet("0.0.0.0/0"), NIC: nicID},
		{Destination: subnet("::/0"), NIC: nicID},
	})
	if err := n.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("netstack: %v", err)
	}
	if err := n.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("netstack: %v", err)
	}
	if err := n.tuneStack(); err != nil {
		return err
	}
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, n.tcp.handle)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, n.udp.handle)
	return nil
}

// Host is the network's end of the cable, for the network card's configuration.
func (n *Network) Host() vnet.Host { return n.link }

// Attach connects the network card. It is called once, before the guest runs.
func (n *Network) Attach(nic NIC) { n.link.attach(nic) }

// spawn runs f on a goroutine that Close waits for; it reports false when the
// network is closed.
func (n *Network) spawn(f func()) bool { return n.crew.spawn(f) }

// Close ends all connections and returns when nothing of the network is left. The
// network card must be reset before.
func (n *Network) Close() error {
	if !n.crew.close() {
		return nil
	}
	n.cancel()
	n.ports.close()
	n.udp.close()
	n.ping.close()
	n.tcp.close()
	n.sockets.close()
	n.finish()
	n.stack.Destroy()
	return n.link.close()
}

// finish waits for the goroutines. Handshakes with the name server that the guest does not
// go on with take two minutes to end by themselves, so they are cut, those too that have
// just begun.
func (n *Network) finish() {
	done := make(chan struct{})
	go func() {
		n.crew.wait()
		close(done)
	}()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		for _, ep := range n.stack.RegisteredEndpoints() {
			ep.Abort()
		}
		select {
		case <-done:
			return
		case <-again.C:
		}
	}
}

// Stats say what went over a box's network since it was made.
type Stats struct {
	SentBytes     uint64 // by the guest, in frames
	ReceivedBytes uint64 // by the guest, in frames
	SentFrames    uint64
	RecvFrames    uint64
	Dropped       uint64 // frames of the guest that were refused: forged or malformed
	Lost          uint64 // frames that the guest had no room for in time

	TCPActive uint64 // connections open now, either way
	TCPTotal  uint64 // connections opened
	TCPErrors uint64 // connections that could not be opened, or were cut
	UDPActive uint64 // flows now
	UDPTotal  uint64
	Denied    uint64 // connections and flows that the policy refused
}

type counters struct {
	sentBytes, recvBytes, sentFrames, recvFrames, dropped, lost atomic.Uint64

	tcpActive, udpActive                  atomic.Int64
	tcpTotal, tcpErrors, udpTotal, denied atomic.Uint64
}

// Stats returns the counters.
func (n *Network) Stats() Stats {
	c := &n.count
	return Stats{
		SentBytes: c.sentBytes.Load(), ReceivedBytes: c.recvBytes.Load(), SentFrames: c.sentFrames.Load(), RecvFrames: c.recvFrames.Load(),
		Dropped: c.dropped.Load(), Lost: c.lost.Load(),
		TCPActive: uint64(max(c.tcpActive.Load(), 0)), TCPTotal: c.tcpTotal.Load(), TCPErrors: c.tcpErrors.Load(),
		UDPActive: uint64(max(c.udpActive.Load(), 0)), UDPTotal: c.udpTotal.Load(), Denied: c.denied.Load(),
	}
}
