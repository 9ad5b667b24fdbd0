package main

import (
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
	f.StringArrayVar(&o.allow, "allow-net", nil, "allow a destination and deny all others: [tcp:|udp:|icmp:]NAME|*.NAME|IP|CIDR[:PORT[-PORT],...]")
	f.StringArrayVar(&o.deny, "deny-net", nil, "deny a destination, written the same way")
	f.BoolVar(&o.host, "allow-host", false, "let the box reach this machine's loopback, as host.boxlite.internal")
	f.BoolVar(&o.private, "allow-private", false, "treat private networks, and those that this machine is on, as public")
	f.StringVar(&o.capture, "pcap", "", "write all frames to a `FILE` in pcap format")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "lead a port of this machine to the box: [[IP:]HOSTPORT:]PORT[/tcp|/udp] (IP is 127.0.0.1 if left out, HOSTPORT any that is free)")
	_ = c.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{"isolated", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// spec is what the flags say.
func (o *networkFlags) spec(what string) (n runtime.NetworkSpec, ports []runtime.PortSpec, err error) {
	switch o.mode {
	case "isolated":
	case "none":
		n.Mode = runtime.NetworkNone
	default:
		return n, nil, fmt.Errorf("%s: --network %q: choose isolated or none", what, o.mode)
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

// parsePort reads a port as docker's -p has it.
func parsePort(s string) (p runtime.PortSpec, err error) {
	wrong := fmt.Errorf("%q: want [[IP:]HOSTPORT:]PORT[/tcp|/udp]", s)
	rest, proto, ok := strings.Cut(s, "/")
	if ok {
		p.Protocol = runtime.PortProtocol(proto)
		if p.Protocol != runtime.PortTCP && p.Protocol != runtime.PortUDP {
			return p, wrong
		}
	}
	guest := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host := rest[:i]
		guest = rest[i+1:]
		if j := strings.LastIndexByte(host, ':'); j >= 0 {
			p.HostIP, host = strings.Trim(host[:j], "[]"), host[j+1:]
			if _, err := netip.ParseAddr(p.HostIP); err != nil {
				return p, fmt.Errorf("%q: %q is no IP address", s, p.HostIP)
			}
		}
		if host != "" {
			n, err := strconv.ParseUint(host, 10, 16)
			if err != nil {
				return p, wrong
			}
			p.HostPort = uint16(n)
		}
	}
	n, err := strconv.ParseUint(guest, 10, 16)
	if err != nil || n == 0 {
		return p, wrong
	}
	p.GuestPort = uint16(n)
	return p, nil
}
