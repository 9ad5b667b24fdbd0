package vmm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/dnsproxy"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
)

// network is a box's network: the card and what is behind it.
type network struct {
	stack  *netstack.Network
	card   *vnet.Device
	policy *egress.Policy
	flows  *flowLog
	asking *questions
}

// netPairs bounds the queue pairs of the card, each of which is a goroutine here
// and an interrupt there.
const netPairs = 4

// openNetwork makes the network of a box and gives it its ports.
func openNetwork(cfg *Config, log *slog.Logger) (n *network, err error) {
	own := cfg.Network
	n = &network{asking: newQuestions(own.Decider)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
			n = nil
		}
	}()
	if n.flows, err = openFlowLog(filepath.Join(cfg.Dir, FlowName)); err != nil {
		return n, err
	}
	if n.policy, err = egress.New(own.Policy, egress.Options{
		HostName: netstack.HostName, HostAddrs: []netip.Addr{netstack.Host4, netstack.Host6},
		Subnets: []netip.Prefix{netstack.Subnet4, netstack.Subnet6},
		Ask:     n.asking.ask, AskTimeout: own.AskTimeout,
		Log: n.flows.addLookup,
	}); err != nil {
		return n, err
	}
	var capture netstack.Capture
	if own.Capture != "" {
		f, err := openCapture(own.Capture)
		if err != nil {
			return n, err
		}
		capture = f
	}
	pairs := min(cfg.CPUs, netPairs)
	hostname := cfg.Setup.Hostname
	if n.stack, err = netstack.New(netstack.Config{
		MTU: own.MTU, Queues: pairs, Policy: n.policy, Hostname: hostname, Capture: capture, Flows: n.flows.add, Log: log,
		DNS: dnsproxy.New(dnsproxy.Options{
			Policy: n.policy, NoIPv6: !hasIPv6(),
			Static: map[string][]netip.Addr{
				netstack.HostName: {netstack.Host4, netstack.Host6},
				hostname:          {netstack.Guest4, netstack.Guest6},
			},
		}),
	}); err != nil {
		if capture != nil {
			capture.Close()
		}
		return n, err
	}
	for i, p := range own.Ports {
		open, err := n.stack.AddPort(netstack.Port(p))
		if err != nil {
			return n, fmt.Errorf("forward port %v: %w", p.Host, err)
		}
		own.Ports[i] = Port(open)
	}
	mtu := own.MTU
	if mtu == 0 {
		mtu = netstack.DefaultMTU
	}
	if n.card, err = vnet.New(vnet.Config{
		MAC: [6]byte(netstack.GuestMAC), MTU: mtu, Queues: pairs, Host: n.stack.Host(),
		FromGuest: vnet.AllOffloads, ToGuest: vnet.AllOffloads,
		Log: func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) },
	}); err != nil {
		return n, err
	}
	n.stack.Attach(n.card)
	return n, nil
}

// hasIPv6 reports whether the host has a way to the IPv6 Internet. Connecting a
// datagram socket sends nothing.
func hasIPv6() bool {
	conn, err := net.Dial("udp6", "[2001:4860:4860::8888]:53")
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// guestNetwork is what the agent is to do about the network card.
func guestNetwork() agentapi.Network {
	raw := func(a netip.Addr) string { return string(a.AsSlice()) }
	n := agentapi.Network{
		Link: "eth0",
		Addrs: []agentapi.Prefix{
			{Addr: raw(netstack.Guest4), Bits: uint8(netstack.Subnet4.Bits())},
			{Addr: raw(netstack.Guest6), Bits: uint8(netstack.Subnet6.Bits())},
		},
		Gateways: []string{raw(netstack.Gateway4)},
		Neighbours: []agentapi.Neighbour{
			{Addr: raw(netstack.Gateway4), MAC: string(netstack.GatewayMAC)},
			{Addr: raw(netstack.Gateway6), MAC: string(netstack.GatewayMAC)},
		},
	}
	if hasIPv6() { // without a route, programs learn at once that there is no way
		n.Gateways = append(n.Gateways, raw(netstack.Gateway6))
	}
	return n
}

// resolvConf is the guest's /etc/resolv.conf.
var resolvConf = "nameserver " + netstack.Gateway4.String() + "\n"

func (n *network) stats() *NetworkStats {
	s := n.stack.Stats()
	return &NetworkStats{
		Sent: s.SentBytes, Received: s.ReceivedBytes, TCPActive: s.TCPActive, TCPTotal: s.TCPTotal, TCPErrors: s.TCPErrors,
		UDPActive: s.UDPActive, Denied: s.Denied, Dropped: s.Dropped,
	}
}

func (n *network) ports() []Port {
	open := n.stack.Ports()
	list := make([]Port, len(open))
	for i, p := range open {
		list[i] = Port(p)
	}
	return list
}

func (n *network) addPort(p Port) (Port, error) {
	open, err := n.stack.AddPort(netstack.Port(p))
	return Port(open), err
}

func (n *network) removePort(p Port) error { return n.stack.RemovePort(netstack.Port(p)) }

func (n *network) decide(ctx context.Context, conn net.Conn) error {
	return n.asking.serve(ctx, conn)
}

// close comes after the machine is gone.
func (n *network) close() error {
	var errs []error
	if n.card != nil {
		errs = append(errs, n.card.Close())
	}
	if n.stack != nil {
		errs = append(errs, n.stack.Close())
	}
	if n.policy != nil {
		n.policy.Close()
	}
	if n.flows != nil {
		errs = append(errs, n.flows.close())
	}
	return errors.Join(errs...)
}

// net is the network as the service sees it.
func (c *child) net() boxNetwork {
	if c.network == nil {
		return nil
	}
	return c.network
}
