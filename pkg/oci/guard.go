package oci

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guard decides which addresses a registry may make this program talk to: a
// registry chooses the URLs of its token server and, by redirects, of its
// blobs, and a hostile one would choose services only this machine can reach.
type guard struct {
	host     string // host[:port] of the registry, lower case
	plain    bool   // http is allowed: loopback, or listed as insecure
	loopback bool   // the registry itself is on loopback
	proxies  sync.Map
	base     *http.Transport
}

func newGuard(host string, insecure bool) *guard {
	g := &guard{host: strings.ToLower(host)}
	g.loopback = isLoopback(host)
	g.plain = g.loopback || insecure
	g.base = &http.Transport{
		Proxy:                 g.proxy,
		DialContext:           g.dial,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
		// What a registry may make us hold of its answer's head.
		MaxResponseHeaderBytes: 1 << 20,
	}
	if insecure {
		// The user listed this registry as one not to verify.
		g.base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	return g
}

// RoundTrip implements http.RoundTripper, for requests of ours and of the
// authentication underneath the client's redirect handling alike.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.check(req.URL); err != nil {
		return nil, err
	}
	return g.base.RoundTrip(req)
}

// maxRedirects is what browsers and Go's own client allow at least.
const maxRedirects = 10

func (g *guard) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fail(ErrUnsupported, "registry %s redirects more than %d times", g.host, maxRedirects)
	}
	return g.check(req.URL)
}

func (g *guard) check(u *url.URL) error {
	host := strings.ToLower(u.Host)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fail(ErrUnsupported, "registry %s points to a %q URL; only https and http are followed", g.host, clip(u.Scheme))
	case u.Scheme == "http" && !g.plain:
		return fail(ErrUnsupported, "refusing plain http to %s: registry %s is not listed as insecure", clip(host), g.host)
	case host == g.host:
		return nil
	case isMetadataHost(u.Hostname()):
		return fail(ErrUnsupported, "registry %s points to %s, a link-local or metadata address; not followed", g.host, clip(host))
	case isLoopback(u.Host) && !g.loopback:
		return fail(ErrUnsupported, "registry %s points to this machine (%s); not followed", g.host, clip(host))
	}
	return nil
}

// proxy remembers which addresses are the user's own proxies, which may be
// anywhere, loopback included.
func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		g.proxies.Store(u.Hostname(), true)
	}
	return u, err
}

// dial checks again what names resolve to.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	origin, _, err := net.SplitHostPort(g.host)
	if err != nil {
		origin = strings.Trim(g.host, "[]")
	}
	if _, isProxy := g.proxies.Load(host); !isProxy {
		own := strings.EqualFold(host, origin)
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			ip := ap.Addr().Unmap()
			if isMetadataIP(ip) {
				return fail(ErrUnsupported, "%s is a link-local or metadata address (%s); not contacted", clip(host), ip)
			}
			if ip.IsLoopback() && !g.loopback && !own {
				return fail(ErrUnsupported, "registry %s points to this machine (%s is %s); not followed", g.host, clip(host), ip)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, addr)
}

func isMetadataHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "metadata.google.internal" || host == "metadata" || host == "instance-data" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && isMetadataIP(ip.Unmap())
}

// Where clouds answer any local process with credentials, link-local apart.
var metadataIPs = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
}

func isMetadataIP(ip netip.Addr) bool {
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return true
	}
	for _, m := range metadataIPs {
		if ip.WithZone("") == m {
			return true
		}
	}
	return false
}
