package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Rule allows or denies destinations. It has either a Name or a Prefix.
type Rule struct {
	Action   Action       // Allow or Deny
	Name     string       `json:",omitempty"` // "example.com", "*.example.com" or "*"
	Prefix   netip.Prefix `json:",omitzero"`
	Protocol Protocol     `json:",omitempty"`
	Ports    []PortRange  `json:",omitempty"` // all when empty; never with ICMP; at most 64
}

// PortRange is the ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

const maxPorts = 64 // ranges per rule

// ParseRule reads a rule as people write it:
//
//	[tcp:|udp:|icmp:]DESTINATION[:PORT[-PORT][,PORT[-PORT]…]]
//
// DESTINATION is a name ("example.com", "*.example.com", "*"), an address or a
// CIDR; one of IPv6 is put in brackets when a protocol or ports are with it.
func ParseRule(action Action, text string) (Rule, error) {
	r, err := parseRule(action, text)
	if err != nil {
		return Rule{}, fmt.Errorf("network rule %q: %w", text, err)
	}
	return r, nil
}

func parseRule(action Action, text string) (Rule, error) {
	r := Rule{Action: action}
	if before, _, ok := strings.Cut(text, "://"); ok {
		return r, fmt.Errorf("write the name without %s://", before[strings.LastIndexByte(before, ':')+1:])
	}
	rest := text
	if p, after, ok := strings.Cut(text, ":"); ok {
		for _, known := range []Protocol{TCP, UDP, ICMP} {
			if strings.EqualFold(p, known.String()) {
				r.Protocol, rest = known, after
			}
		}
	}
	dst, ports, havePorts := rest, "", false
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		var after string
		if dst, after, ok = strings.Cut(inner, "]"); !ok {
			return r, errors.New("a bracket is not closed")
		}
		// "[2001:db8::]/32" is as common as "[2001:db8::/32]".
		if bits, ok := strings.CutPrefix(after, "/"); ok && !strings.Contains(dst, "/") {
			bits, after, havePorts = strings.Cut(bits, ":")
			dst += "/" + bits
			ports = after
		} else if after != "" {
			if ports, havePorts = strings.CutPrefix(after, ":"); !havePorts {
				return r, errors.New("after the bracket comes a colon and ports")
			}
		}
		if !strings.Contains(dst, ":") {
			return r, errors.New("only addresses of IPv6 go in brackets")
		}
	} else if strings.Count(rest, ":") == 1 {
		dst, ports, havePorts = strings.Cut(rest, ":")
	}

	switch prefix, err := parsePrefix(dst); {
	case err == nil:
		r.Prefix = prefix
	case strings.ContainsAny(dst, ":/"):
		return r, err
	default:
		r.Name = dst
	}
	if havePorts {
		list, err := parsePorts(ports)
		if err != nil {
			return r, err
		}
		r.Ports = list
	}
	return r.clean()
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("%q is no CIDR", s)
		}
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no address", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parsePorts(s string) ([]PortRange, error) {
	var out []PortRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil {
			return nil, fmt.Errorf("%q is no port and no range of ports", part)
		}
		if out = append(out, PortRange{uint16(a), uint16(b)}); len(out) > maxPorts {
			break // clean refuses it
		}
	}
	return out, nil
}

// clean returns the rule as it is compared and shown, or what is wrong with it.
func (r Rule) clean() (Rule, error) {
	if r.Action != Allow && r.Action != Deny {
		return r, errors.New("a rule either allows or denies")
	}
	if r.Protocol > ICMP {
		return r, fmt.Errorf("there is no protocol %d", r.Protocol)
	}
	switch {
	case (r.Name != "") && r.Prefix != netip.Prefix{}:
		return r, errors.New("a rule has either a name or addresses")
	case r.Name != "":
		name, err := ruleName(r.Name)
		if err != nil {
			return r, err
		}
		r.Name = name
	case !r.Prefix.IsValid():
		return r, errors.New("the destination is missing: give a name, an address or a CIDR")
	default:
		a, bits := r.Prefix.Addr(), r.Prefix.Bits()
		if a.Is4In6() {
			if bits < 96 {
				return r, fmt.Errorf("%s is neither IPv4 nor IPv6: write the IPv4 prefix", r.Prefix)
			}
			a, bits = a.Unmap(), bits-96
		}
		r.Prefix = netip.PrefixFrom(a, bits).Masked()
	}
	if len(r.Ports) > maxPorts {
		return r, fmt.Errorf("a rule has at most %d ranges of ports", maxPorts)
	}
	if r.Protocol == ICMP && len(r.Ports) > 0 {
		return r, errors.New("icmp has no ports")
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return r, fmt.Errorf("%s are no ports: they go from 1 to 65535, the lower one first", p)
		}
	}
	return r, nil
}

// String returns the rule as ParseRule reads it, without the action.
func (r Rule) String() string {
	var b strings.Builder
	if r.Protocol != Any {
		b.WriteString(r.Protocol.String())
		b.WriteByte(':')
	}
	switch dst := r.destination(); {
	case strings.Contains(dst, ":") && (r.Protocol != Any || len(r.Ports) > 0):
		b.WriteString("[" + dst + "]")
	default:
		b.WriteString(dst)
	}
	for i, p := range r.Ports {
		b.WriteByte(":,"[min(i, 1)])
		b.WriteString(p.String())
	}
	return b.String()
}

func (r Rule) destination() string {
	switch {
	case r.Name != "":
		return r.Name
	case r.Prefix.IsSingleIP():
		return r.Prefix.Addr().String()
	default:
		return r.Prefix.String()
	}
}

func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}
