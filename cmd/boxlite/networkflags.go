package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// networkFlags are the flags for the network of a new box.
type networkFlags struct {
	mode    string
	allow   []string
	deny    []string
	host    bool
	private bool
	capture string
	publish []string
}

func (o *networkFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.mode, "network", "isolated", `"isolated": reaches the Internet, not the host; "none": no network card`)
	f.StringArrayVar(&o.allow, "allow-net", nil, "allow a destination and deny all others: "+ruleForm)
	f.StringArrayVar(&o.deny, "deny-net", nil, "deny a destination, written the same way")
	f.BoolVar(&o.host, "allow-host", false, "let the box reach this machine's loopback, as host.boxlite.internal")
	f.BoolVar(&o.private, "allow-private", false, "treat private networks, and those that this machine is on, as public")
	f.StringVar(&o.capture, "pcap", "", "write all frames to a `FILE` in pcap format")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "lead a port of this machine to the box: [[IP:]HOSTPORT:]PORT[/tcp|/udp] (IP is 127.0.0.1 if left out, HOSTPORT any that is free if left out or 0)")
	_ = c.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{"isolated", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// ruleForm is what a rule of the network looks like.
const ruleForm = "[tcp:|udp:|icmp:]NAME|*.NAME|IP|CIDR[:PORT[-PORT],...]"

// spec is what the flags say.
func (o *networkFlags) spec(what string) (n runtime.NetworkSpec, ports []runtime.PortSpec, err error) {
	switch o.mode {
	case "isolated":
	case "none":
		n.Mode = runtime.NetworkNone
		if other := o.needsNetwork(); other != "" {
			return n, nil, fmt.Errorf("%s: --network none and %s: a box without a network can have no use of it: leave one of them out", what, other)
		}
	default:
		return n, nil, fmt.Errorf("%s: --network %q: choose isolated or none", what, o.mode)
	}
	for _, list := range []struct {
		flag  string
		rules []string
	}{{"allow-net", o.allow}, {"deny-net", o.deny}} {
		for _, rule := range list.rules {
			if err := runtime.CheckNetworkRule(rule); err != nil {
				return n, nil, fmt.Errorf("%s: --%s %q: %w; a rule is %s", what, list.flag, rule, err, ruleForm)
			}
		}
	}
	n.Allow, n.Deny, n.AllowHost, n.AllowPrivate, n.Capture = o.allow, o.deny, o.host, o.private, o.capture
	for _, s := range o.publish {
		p, err := parsePort(s)
		if err != nil {
			return n, nil, fmt.Errorf("%s: -p %w", what, err)
		}
		ports = append(ports, p)
	}
	return n, ports, nil
}

// needsNetwork is the first flag given that is about a network, empty for none.
func (o *networkFlags) needsNetwork() string {
	for _, f := range []struct {
		flag  string
		given bool
	}{
		{"--allow-net", len(o.allow) > 0}, {"--deny-net", len(o.deny) > 0}, {"--allow-host", o.host},
		{"--allow-private", o.private}, {"--pcap", o.capture != ""}, {"-p", len(o.publish) > 0},
	} {
		if f.given {
			return f.flag
		}
	}
	return ""
}

// portForm says what a port looks like, where it was something else.
const portForm = "want [[IP:]HOSTPORT:]PORT[/tcp|/udp]"

// parsePort reads a port as docker's -p has it. A HOSTPORT of 0 is any that is free, as
// it is without one.
func parsePort(s string) (p runtime.PortSpec, err error) {
	wrong := func(why string, args ...any) (runtime.PortSpec, error) {
		return p, fmt.Errorf("%q: %s", s, fmt.Sprintf(why, args...))
	}
	rest, proto, ok := strings.Cut(s, "/")
	if ok {
		p.Protocol = runtime.PortProtocol(strings.ToLower(proto))
		if p.Protocol != runtime.PortTCP && p.Protocol != runtime.PortUDP {
			return wrong("there is no protocol %q: choose tcp or udp", proto)
		}
	}
	guest := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host := rest[:i]
		guest = rest[i+1:]
		if j := strings.LastIndexByte(host, ':'); j >= 0 {
			p.HostIP, host = strings.Trim(host[:j], "[]"), host[j+1:]
			if _, err := netip.ParseAddr(p.HostIP); err != nil {
				return wrong("%q is no IP address: %s, IP in numbers, such as 127.0.0.1 or [::1]", p.HostIP, portForm)
			}
		}
		if host != "" {
			if p.HostPort, err = portNumber(host, 0); err != nil {
				return wrong("HOSTPORT %q: %v", host, err)
			}
		}
	}
	if guest == "" {
		return wrong("no port of the box is named: " + portForm)
	}
	if p.GuestPort, err = portNumber(guest, 1); err != nil {
		return wrong("PORT %q: %v", guest, err)
	}
	return p, nil
}

// portNumber reads the number of a port, which is least at least. Ranges are docker's.
func portNumber(s string, least uint64) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if first, last, ok := strings.Cut(s, "-"); ok && isDigits(first) && isDigits(last) {
		return 0, errors.New("there are no ranges of ports here: name each port by itself")
	} else if err != nil && !isDigits(s) {
		return 0, errors.New(portForm)
	} else if err != nil || n < least {
		return 0, fmt.Errorf("choose %d to 65535", least)
	}
	return uint16(n), nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
