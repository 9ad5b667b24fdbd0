// Package egress decides what a box may reach: which names its DNS may resolve,
// and which flows may leave it. It is logic only; the network stack asks it.
//
// # Rules
//
// Rules are tried in order and the first that matches decides; what none matches
// goes by Config.Default. A rule names a destination by address or by name, and
// may be limited to a protocol and to ports, which hold for UDP as for TCP. A rule
// with ports never matches ICMP, which has none.
//
// A rule by name matches the addresses that the box was given by our DNS for such
// a name (Policy.Pin), and no other: what a packet, a TLS greeting or the guest's
// own resolver claim opens nothing. "example.com" is that name alone,
// "*.example.com" every name below it at any depth and not itself, "*" every
// destination, whether it has a name or not.
//
// An address that the box was given for no name may belong to a name that a rule
// denies. So where a denial by name comes before an allowance that says nothing
// about the address ("*" or Default), such an address is denied; a rule that names
// the address still allows it.
//
// # Special ranges
//
// Private networks, loopback, link-local, multicast, broadcast and reserved
// ranges, the metadata services of clouds, the box's own network and every address
// of the host's own interfaces are closed whatever the rules say of names, so a
// name that resolves to one of them (DNS rebinding) opens nothing. Only a rule
// that names addresses and lies inside the range opens it: 10.1.0.0/16 does,
// 0.0.0.0/0 does not. An address of the host or of a metadata service must be named
// exactly. Denials hold in special ranges like anywhere. Private are also the
// networks of the host's interfaces, whatever their addresses: its neighbours on a
// LAN have public ones where there is IPv6. Config.AllowPrivate makes private
// networks ordinary; Config.AllowHost opens the host's address in the box's
// network, Options.HostAddrs, which a rule for exactly Options.HostName opens too.
//
// # TLS and HTTP
//
// Several names often share an address, above all at CDNs. A TCP flow that is
// allowed because of a name is therefore to be watched (Verdict.NeedsName): a
// Sniffer reads the first bytes that the guest sends, and refuses a TLS greeting or
// an HTTP request for a name that the rules do not allow, or for none.
//
// # What remains
//
//   - Encrypted Client Hello hides the name that is really asked for; the outer one
//     is checked. The DNS proxy removes the keys that it needs.
//   - Inside TLS nothing is seen: a server that answers for a name other than that
//     of the greeting (domain fronting proper) is up to the CDN.
//   - Later requests of a kept-alive HTTP connection, HTTP/2 without TLS, QUIC and
//     every other protocol are not read. On an address that several names share
//     they reach whatever the address serves. Rules limited to tcp: keep QUIC out.
//   - An allowed name is as trustworthy as who runs its zone: it can point to any
//     address that is not special.
//   - Denying names with Default Allow restrains programs that do not mind it, not
//     hostile ones: those find the same service under another name.
//   - Of the aliases on the way to an address (CNAME) only those that a rule denies
//     altogether count, and only as our DNS saw them.
//   - A public address that a router translates to the host is not known to be the
//     host's.
//   - Neighbours with public addresses are known by the prefixes of the interfaces'
//     addresses, not by routes: those of a host whose only address is a single one
//     (/32, /128), and those behind another router, count as public.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Action is what is to be done with a destination.
type Action uint8

// Actions. The zero value is none, which rules and answers may not have.
const (
	Allow Action = 1
	Deny  Action = 2
	Ask   Action = 3 // only as Config.Default: Options.Ask decides
)

var actionNames = names{Allow: "allow", Deny: "deny", Ask: "ask"}

func (a Action) String() string { return actionNames.text(uint8(a)) }

// MarshalText returns "allow", "deny", "ask", or nothing for none.
func (a Action) MarshalText() ([]byte, error) { return actionNames.marshal("action", uint8(a)) }

// UnmarshalText reads what MarshalText returns.
func (a *Action) UnmarshalText(text []byte) error {
	return actionNames.unmarshal("action", text, (*uint8)(a))
}

// Protocol is a transport protocol.
type Protocol uint8

// Protocols. Any is for rules only and includes none that is not listed here.
const (
	Any  Protocol = 0
	TCP  Protocol = 1
	UDP  Protocol = 2
	ICMP Protocol = 3 // ICMPv6 too
)

var protocolNames = names{TCP: "tcp", UDP: "udp", ICMP: "icmp"}

func (p Protocol) String() string { return protocolNames.text(uint8(p)) }

// MarshalText returns "tcp", "udp", "icmp", or nothing for any.
func (p Protocol) MarshalText() ([]byte, error) { return protocolNames.marshal("protocol", uint8(p)) }

// UnmarshalText reads what MarshalText returns.
func (p *Protocol) UnmarshalText(text []byte) error {
	return protocolNames.unmarshal("protocol", text, (*uint8)(p))
}

// names are the texts of a small enumeration, whose zero value is "".
type names []string

func (n names) text(v uint8) string {
	if int(v) < len(n) {
		return n[v]
	}
	return fmt.Sprintf("%d", v)
}

func (n names) marshal(what string, v uint8) ([]byte, error) {
	if int(v) >= len(n) {
		return nil, fmt.Errorf("egress: there is no %s %d", what, v)
	}
	return []byte(n[v]), nil
}

func (n names) unmarshal(what string, text []byte, v *uint8) error {
	for i, s := range n {
		if s == string(text) {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("egress: there is no %s %q: give one of %s", what, text, strings.Join(n[1:], ", "))
}

// Config is a box's policy as its owner states it. It can be marshaled to JSON.
// The zero value allows everything that is not in a special range.
type Config struct {
	Rules []Rule `json:",omitempty"` // at most MaxRules

	// Default is for what no rule matches. When none is set, it is Deny if any rule
	// allows something, and Allow otherwise.
	Default Action `json:",omitempty"`

	AllowHost    bool `json:",omitempty"` // all ports of Options.HostAddrs that no rule denies
	AllowPrivate bool `json:",omitempty"` // RFC 1918, 100.64.0.0/10, fc00::/7 and the interfaces' networks are treated like public addresses
}

// MaxRules is the most rules that a policy may have.
const MaxRules = 1024

// Options are what a policy needs to know of its surroundings. All may be left out.
type Options struct {
	// HostName is the name under which the box knows the host, HostAddrs its
	// addresses in the box's network. No other rule by name opens them.
	HostName  string
	HostAddrs []netip.Addr

	// Subnets are the networks of the box; all of them are special.
	Subnets []netip.Prefix

	// LocalAddrs returns the addresses of the host's interfaces, each with the length
	// of its network's prefix, by default those that the system tells. It is called
	// from Check, every few seconds at most; nil says that they are not known, which
	// keeps the last ones.
	LocalAddrs func() []netip.Prefix

	// Ask decides on what no rule matches, with Config.Default Ask. It is called from
	// goroutines of the policy, at most one per destination and a few dozen at once,
	// and must return when its context ends. An error, no answer in time, and any
	// answer but Allow deny. Answers hold for AskTTL; without Ask all is denied.
	Ask        func(context.Context, Request) (Action, error)
	AskTimeout time.Duration // 1 minute by default
	AskTTL     time.Duration // 10 minutes by default

	// Log is called with each decision, by the goroutine that asked for it. The guest
	// determines how often, so that limiting the rate is up to the function.
	Log func(Decision)

	Now func() time.Time // time.Now by default
}

// Flow is a connection, or a stream of datagrams, that a box wants to open.
type Flow struct {
	Protocol Protocol // not Any
	Dst      netip.AddrPort
}

// Request is a question to Options.Ask.
type Request struct {
	// Name is the destination's name, or empty if the box was given the address for
	// no name.
	Name string

	// Flow is what the box wants to open. It is zero when the box asks for the
	// addresses of Name, which an answer allows together with all flows to them.
	Flow Flow
}

// Verdict is the answer to a question about a name or a flow.
type Verdict struct {
	Allow  bool
	Name   string // of the destination, as far as it played a part
	Rule   string // that decided, as "allow RULE" or "deny RULE"; empty if none did
	Reason Reason

	// NeedsName tells that the flow is allowed as far as it is for an allowed name:
	// what the guest sends must pass a Sniffer.
	NeedsName bool
}

// Reason is why a verdict is as it is.
type Reason uint8

// Reasons.
const (
	ByRule         Reason = iota + 1 // Verdict.Rule matched
	ByDefault                        // no rule matched
	ByAnswer                         // Options.Ask decided
	ByHost                           // Config.AllowHost
	NoAnswer                         // Options.Ask did not decide, in time or at all
	NameUnknown                      // the address may belong to a name that a rule denies
	NameInvalid                      // the name is not one that rules can judge
	NameMissing                      // TLS or HTTP that does not say for whom
	NameHidden                       // TLS or HTTP that cannot be read
	AddressInvalid                   // no address, or no such protocol
	SpecialHost                      // special ranges: the host's own addresses
	SpecialNetwork                   // the box's network
	SpecialMetadata
	SpecialPrivate
	SpecialLoopback
	SpecialLinkLocal
	SpecialMulticast
	SpecialReserved
)

var reasonNames = names{
	ByRule: "rule", ByDefault: "default", ByAnswer: "answer", ByHost: "host allowed", NoAnswer: "no answer",
	NameUnknown: "address of no known name", NameInvalid: "invalid name", NameMissing: "request without a name",
	NameHidden: "unreadable request", AddressInvalid: "invalid address",
	SpecialHost: "address of the host", SpecialNetwork: "the box's network", SpecialMetadata: "metadata service",
	SpecialPrivate: "private network", SpecialLoopback: "loopback", SpecialLinkLocal: "link-local",
	SpecialMulticast: "multicast", SpecialReserved: "reserved range",
}

func (r Reason) String() string { return reasonNames.text(uint8(r)) }

// Decision is a verdict for the log.
type Decision struct {
	Time   time.Time
	Kind   Kind
	Flow   Flow // zero for lookups
	Name   string
	Action Action // Allow or Deny
	Rule   string // as in Verdict
	Reason Reason
}

// Kind is what was decided on.
type Kind uint8

// Kinds.
const (
	KindLookup Kind = iota + 1 // a name that the box wants to resolve
	KindFlow                   // a flow that it wants to open
	KindFirst                  // the first bytes of a flow
)

var kindNames = names{KindLookup: "lookup", KindFlow: "flow", KindFirst: "first bytes"}

func (k Kind) String() string { return kindNames.text(uint8(k)) }

// Policy decides. Its methods may be called from any goroutine.
type Policy struct {
	config Config
	opts   Options
	match  *matcher
	host   signature // of HostName
	local  atomic.Pointer[localAddrs]
	asking *asker // nil unless unknown destinations are asked for

	mu   sync.RWMutex
	pins pins
}

// New returns the policy of one box. The caller must Close it.
func New(c Config, o Options) (*Policy, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LocalAddrs == nil {
		o.LocalAddrs = interfaceAddrs
	}
	if o.HostName != "" {
		name, err := ruleName(o.HostName)
		if err != nil || strings.HasPrefix(name, "*") {
			return nil, fmt.Errorf("egress: %q is no name of a host", o.HostName)
		}
		o.HostName = name
	}
	m, err := newMatcher(c.Rules)
	if err != nil {
		return nil, err
	}
	switch c.Default {
	case Allow, Deny, Ask:
	case 0:
		c.Default = Allow
		for _, r := range c.Rules {
			if r.Action == Allow {
				c.Default = Deny
			}
		}
	default:
		return nil, fmt.Errorf("egress: there is no default action %d", c.Default)
	}
	p := &Policy{config: c, opts: o, match: m, pins: newPins()}
	for i, a := range p.opts.HostAddrs {
		if i == 0 {
			p.opts.HostAddrs = make([]netip.Addr, len(o.HostAddrs))
		}
		p.opts.HostAddrs[i] = a.Unmap().WithZone("")
	}
	if o.HostName != "" {
		p.host, _ = m.sign(o.HostName)
	}
	for _, n := range o.Subnets {
		if !n.IsValid() {
			return nil, errors.New("egress: a subnet of the box is not valid")
		}
	}
	if p.refreshLocal(o.Now()); p.local.Load() == nil {
		return nil, errors.New("egress: the addresses of the host's interfaces are not known")
	}
	if c.Default == Ask {
		p.asking = newAsker(o)
	}
	return p, nil
}

// Close ends open questions, which deny, and waits for their goroutines.
func (p *Policy) Close() {
	if p.asking != nil {
		p.asking.close()
	}
}

// NameRules tells whether the verdicts on flows may depend on names, so that the
// box must get its addresses from our DNS and from nowhere else.
func (p *Policy) NameRules() bool { return p.match.named || p.config.Default == Ask }

// Asks tells whether Check may wait for an answer.
func (p *Policy) Asks() bool { return p.config.Default == Ask }

func (p *Policy) log(kind Kind, f Flow, v Verdict) {
	if p.opts.Log == nil {
		return
	}
	d := Decision{Time: p.opts.Now(), Kind: kind, Flow: f, Name: v.Name, Action: Deny, Rule: v.Rule, Reason: v.Reason}
	if v.Allow {
		d.Action = Allow
	}
	p.opts.Log(d)
}

func interfaceAddrs() []netip.Prefix {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	out := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addr = addr.Unmap()
				ones, bits := n.Mask.Size()
				if bits != addr.BitLen() {
					ones = addr.BitLen() // a mask that is no prefix: the address alone
				}
				out = append(out, netip.PrefixFrom(addr, ones))
			}
		}
	}
	return out
}
