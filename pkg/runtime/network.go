package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// NetworkMode says what kind of network a box has.
type NetworkMode string

const (
	// NetworkIsolated is a network of the box's own, from which it reaches the
	// Internet through the host, as far as its [NetworkSpec] allows. It is the default.
	NetworkIsolated NetworkMode = ""
	// NetworkNone is no network: the box has no network card at all.
	NetworkNone NetworkMode = "none"
)

// NetworkSpec describes a box's network. The zero value is an isolated network that
// reaches the Internet, but neither the host nor private networks.
//
// Allow and Deny hold rules of the form
//
//	[tcp:|udp:|icmp:]DESTINATION[:PORT[-PORT][,...]]
//
// where DESTINATION is a name, "*.example.com" for all names below one, "*", an
// address, or a CIDR; IPv6 goes in brackets where ports are named. Denials are tried
// first. Where anything is allowed, all else is denied, or asked about with Ask. A name stands for the
// addresses that the box's DNS server answered for it. Private, local and
// metadata-service addresses, and those of the host, are denied unless a rule names
// such an address or network itself.
type NetworkSpec struct {
	Mode  NetworkMode `json:",omitempty"`
	Allow []string    `json:",omitempty"`
	Deny  []string    `json:",omitempty"`
	// AllowHost lets the box reach the host's loopback as host.boxlite.internal.
	AllowHost bool `json:",omitempty"`
	// AllowPrivate treats private networks (RFC 1918, 100.64.0.0/10, fc00::/7) and those
	// that the host is on as public.
	AllowPrivate bool `json:",omitempty"`
	// Ask has a callback decide on names and addresses that no rule matches, special
	// ones aside, which stay denied. Setting Decide sets it. Without a callback, as
	// when a program without one starts the box, or the one with it has ended, what
	// no rule matches is denied; see [LiteBox.Decide].
	Ask bool `json:",omitempty"`
	// Decide is the callback for boxes that this runtime starts, whatever handle is
	// used. It is not stored with the box. An answer holds for 10 minutes, for a name
	// with all its addresses; that there was none, for 10 seconds. Each answer is in
	// [Options].Log, and with the bytes that went in [LiteBox.Flows].
	Decide DecideFunc `json:"-"`
	// DecideTimeout is how long an answer may take; default 1 minute. The program in
	// the box waits as long, if it has the patience.
	DecideTimeout time.Duration `json:",omitempty"`
	// Capture is a regular file that takes all frames in pcap format, emptied at each
	// start. It may not be, nor its path lead, where the box itself can write.
	Capture string `json:",omitempty"`
}

// PortProtocol is the protocol of a forwarded port.
type PortProtocol string

// Protocols of ports.
const (
	PortTCP PortProtocol = "tcp" // the default
	PortUDP PortProtocol = "udp"
)

// PortSpec leads a port of the host to one of the box.
type PortSpec struct {
	HostPort  uint16       // 0 for any that is free
	GuestPort uint16       //
	Protocol  PortProtocol // default [PortTCP]
	HostIP    string       // address of the host to listen on; default 127.0.0.1
}

// String is the port as docker lists it: "127.0.0.1:8080->80/tcp".
func (p PortSpec) String() string {
	return fmt.Sprintf("%s->%d/%s", net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort))), p.GuestPort, p.Protocol)
}

// fill sets the defaults and checks the rest.
func (p *PortSpec) fill() error {
	if p.Protocol == "" {
		p.Protocol = PortTCP
	}
	if p.HostIP == "" {
		p.HostIP = "127.0.0.1"
	}
	if p.Protocol != PortTCP && p.Protocol != PortUDP {
		return fail(ErrInvalidArgument, "port %d: there is no protocol %q: use tcp or udp", p.GuestPort, p.Protocol)
	}
	if p.GuestPort == 0 {
		return fail(ErrInvalidArgument, "port 0 of the box: choose 1 to 65535")
	}
	if _, err := netip.ParseAddr(p.HostIP); err != nil {
		return fail(ErrInvalidArgument, "port %d: %q is no IP address of the host", p.GuestPort, p.HostIP)
	}
	return nil
}

// internal is the spec as the VM process takes it; fill has checked it.
func (p PortSpec) internal() vmm.Port {
	q := vmm.Port{Protocol: egress.TCP, Guest: p.GuestPort}
	if p.Protocol == PortUDP {
		q.Protocol = egress.UDP
	}
	if a, err := netip.ParseAddr(p.HostIP); err == nil {
		q.Host = netip.AddrPortFrom(a, p.HostPort)
	}
	return q
}

func portSpecs(list []vmm.Port) []PortSpec {
	var out []PortSpec
	for _, p := range list {
		s := PortSpec{HostPort: p.Host.Port(), GuestPort: p.Guest, Protocol: PortTCP, HostIP: p.Host.Addr().String()}
		if p.Protocol == egress.UDP {
			s.Protocol = PortUDP
		}
		out = append(out, s)
	}
	return out
}

// policy is the spec's rules in the order in which they are tried.
func (n *NetworkSpec) policy() (egress.Config, error) {
	c := egress.Config{AllowHost: n.AllowHost, AllowPrivate: n.AllowPrivate}
	if n.Ask {
		c.Default = egress.Ask
	}
	for _, list := range []struct {
		field  string
		action egress.Action
		rules  []string
	}{{"Deny", egress.Deny, n.Deny}, {"Allow", egress.Allow, n.Allow}} {
		for _, text := range list.rules {
			r, err := parseNetworkRule(list.action, text)
			if err != nil {
				return c, wrap(ErrInvalidArgument, err, "network: %s %q", list.field, text)
			}
			c.Rules = append(c.Rules, r)
		}
	}
	if len(c.Rules) > egress.MaxRules {
		return c, fail(ErrInvalidArgument, "network: %d rules: at most %d", len(c.Rules), egress.MaxRules)
	}
	return c, nil
}

// fillNetwork checks network and ports, and sets their defaults.
func (o *BoxOptions) fillNetwork() error {
	switch n := &o.Network; {
	case n.Mode != NetworkIsolated && n.Mode != NetworkNone:
		return fail(ErrInvalidArgument, "there is no network %q: leave it out, or use %q", n.Mode, NetworkNone)
	case n.Mode == NetworkNone && (len(n.Allow)+len(n.Deny) > 0 || n.AllowHost || n.AllowPrivate || n.Capture != ""):
		return fail(ErrInvalidArgument, "rules or a capture for a box that has no network: leave them out, or Mode %q", NetworkNone)
	case n.Mode == NetworkNone && len(o.Ports) > 0:
		return fail(ErrInvalidArgument, "ports of a box that has no network: leave them out, or Mode %q", NetworkNone)
	}
	if err := o.Network.fillDecide(); err != nil {
		return err
	}
	if _, err := o.Network.policy(); err != nil {
		return err
	}
	if o.Network.Capture != "" {
		abs, err := filepath.Abs(o.Network.Capture)
		if err != nil {
			return wrap(ErrInvalidArgument, err, "capture file %s", o.Network.Capture)
		}
		o.Network.Capture = abs
	}
	o.Ports = slices.Clone(o.Ports)
	for i := range o.Ports {
		if err := o.Ports[i].fill(); err != nil {
			return err
		}
		for _, q := range o.Ports[:i] {
			if p := o.Ports[i]; p.HostPort != 0 && p.HostPort == q.HostPort && p.HostIP == q.HostIP && p.Protocol == q.Protocol {
				return fail(ErrInvalidArgument, "port %d/%s of the host is to lead to two ports of the box: choose another", p.HostPort, p.Protocol)
			}
		}
	}
	return nil
}

// vmmNetwork is the network for the VM process; nil for none.
func (b *LiteBox) vmmNetwork(ctx context.Context) (*vmm.Network, error) {
	if b.opts.Network.Mode == NetworkNone {
		return nil, nil
	}
	policy, err := b.opts.Network.policy()
	if err != nil {
		return nil, err
	}
	n := &vmm.Network{
		Policy: policy, Capture: b.opts.Network.Capture,
		Decider: b.opts.Network.Decide != nil, AskTimeout: b.opts.Network.DecideTimeout,
	}
	for _, p := range b.opts.Ports {
		if err := b.portFree(ctx, p); err != nil {
			return nil, wrap(ErrNetwork, err, "start box %s", b)
		}
		n.Ports = append(n.Ports, p.internal())
	}
	return n, nil
}

// keepPorts lets every process know which ports lead to the box.
func (b *LiteBox) keepPorts(ctx context.Context, ports []vmm.Port) error {
	text := ""
	if len(ports) > 0 {
		j, err := json.Marshal(portSpecs(ports))
		if err != nil {
			return err
		}
		text = string(j)
	}
	db, err := b.rt.state(ctx)
	if err != nil {
		return err
	}
	return wrap(ErrDatabase, db.SetPorts(ctx, string(b.id), text), "keep the ports of box %s", b)
}

// portsOf are the ports that lead to a running box.
func portsOf(row *state.Box) []PortSpec {
	var list []PortSpec
	if row.Ports == "" || json.Unmarshal([]byte(row.Ports), &list) != nil {
		return nil
	}
	return list
}

// Ports returns the ports that lead to the box, which runs.
func (b *LiteBox) Ports(ctx context.Context) ([]PortSpec, error) {
	_, ports, err := b.networkState(ctx)
	return portSpecs(ports), err
}

// AddPort leads a port of the host to the box, which runs, until it stops. The
// result has the number that was chosen where none was given.
func (b *LiteBox) AddPort(ctx context.Context, p PortSpec) (PortSpec, error) {
	if err := p.fill(); err != nil {
		return p, err
	}
	if _, err := b.active(ctx); err != nil {
		return p, err
	}
	// The VM process knows that a port is taken, but not by whom.
	if err := b.portFree(ctx, p); err != nil {
		return p, wrap(ErrNetwork, err, "box %s", b)
	}
	q, err := vmm.AddPort(ctx, b.dir(), p.internal())
	if err != nil {
		return p, b.networkError(err, fmt.Sprintf("forward port %v", p))
	}
	return portSpecs([]vmm.Port{q})[0], b.portsChanged(ctx)
}

// RemovePort ends what AddPort or [BoxOptions].Ports began. Connections stay.
func (b *LiteBox) RemovePort(ctx context.Context, p PortSpec) error {
	if err := p.fill(); err != nil {
		return err
	}
	_, ports, err := b.networkState(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(ports, p.internal()) {
		return fail(ErrNetwork, "box %s: port %v does not lead to it: %s", b, p, portList(portSpecs(ports)))
	}
	if err := vmm.RemovePort(ctx, b.dir(), p.internal()); err != nil {
		return b.networkError(err, fmt.Sprintf("end the forwarding of port %v", p))
	}
	return b.portsChanged(ctx)
}

func (b *LiteBox) portsChanged(ctx context.Context) error {
	_, ports, err := b.networkState(ctx)
	if err != nil {
		return err
	}
	return b.keepPorts(ctx, ports)
}

func (b *LiteBox) networkState(ctx context.Context) (*vmm.NetworkStats, []vmm.Port, error) {
	if _, err := b.active(ctx); err != nil {
		return nil, nil, err
	}
	stats, ports, err := vmm.NetworkState(ctx, b.dir())
	if err != nil {
		return nil, nil, b.networkError(err, "network")
	}
	return stats, ports, nil
}

func (b *LiteBox) networkError(err error, what string) error {
	var refused *agentapi.Error
	if errors.As(err, &refused) {
		if refused.Code == agentapi.CodeInvalid {
			return fail(ErrInvalidState, "box %s: %s: %s", b, what, refused.Msg)
		}
		return fail(ErrNetwork, "box %s: %s: %s", b, what, refused.Msg)
	}
	return wrap(ErrPortal, err, "box %s: %s", b, what)
}
