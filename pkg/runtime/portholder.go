package runtime

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// portFree finds out before anything else is done that a port is taken, and by which
// box if it is one of ours.
func (b *LiteBox) portFree(ctx context.Context, p PortSpec) error {
	if p.HostPort == 0 {
		return nil
	}
	addr := p.internal().Host
	var err error
	if p.Protocol == PortUDP {
		var c *net.UDPConn
		if c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); err == nil {
			c.Close()
		}
	} else {
		var l *net.TCPListener
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr)); err == nil {
			l.Close()
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		list, lerr := b.rt.ListInfo(ctx)
		if lerr != nil {
			list = nil // the port is what matters
		}
		return wrap(ErrNetwork, err, "port %v/%s of the host is in use by %s: choose another, or 0 for any", addr, p.Protocol, portHolder(list, p))
	case errors.Is(err, syscall.EACCES):
		return wrap(ErrNetwork, err, "port %v/%s of the host is not for this user: choose one from 1024 on, or 0 for any", addr, p.Protocol)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return wrap(ErrNetwork, err, "port %v/%s of the host: this machine does not have that address: choose one that it has", addr, p.Protocol)
	}
	return wrap(ErrNetwork, err, "port %v/%s of the host", addr, p.Protocol)
}

// portHolder is who among boxes has a port of the host that is taken.
func portHolder(boxes []BoxInfo, p PortSpec) string {
	for _, i := range boxes {
		for _, q := range i.Ports {
			if q.HostPort == p.HostPort && q.Protocol == p.Protocol && sameHost(q.HostIP, p.HostIP) {
				if i.Name != "" {
					return "box " + i.Name
				}
				return "box " + string(i.ID)
			}
		}
	}
	return "another program"
}

// sameHost reports whether sockets on two addresses of the host exclude each other, as
// those on all addresses do with every one.
func sameHost(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && (x == y || x.IsUnspecified() || y.IsUnspecified())
}

// portList says which ports lead to a box.
func portList(ports []PortSpec) string {
	if len(ports) == 0 {
		return "there is none that does"
	}
	text := make([]string, len(ports))
	for i, p := range ports {
		text[i] = p.String()
	}
	return "those that do are " + strings.Join(text, ", ")
}
