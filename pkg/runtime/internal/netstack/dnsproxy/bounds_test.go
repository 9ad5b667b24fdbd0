package dnsproxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
)

func TestConcurrentQueriesAreBounded(t *testing.T) {
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	u := newUpstream(t, func(_ string, q []byte) [][]byte {
		arrived <- struct{}{}
		<-release
		return [][]byte{answerTo(q)}
	})
	dialed := make(chan struct{}, 8)
	s := New(Options{Concurrent: 2, Upstreams: []netip.AddrPort{u.addr}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed <- struct{}{}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { require.Equal(t, 0, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512))) })
	}
	<-dialed
	<-dialed
	<-arrived
	require.Equal(t, rcodeServer, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512)), "a third one waits")
	require.Empty(t, dialed)
	close(release)
	all.Wait()
	require.Equal(t, 0, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512)))
}

// resolvers are named by resolv.conf, and are where the test has them.
type resolvers struct {
	real map[string]netip.AddrPort // by the address in the file
	mu   sync.Mutex
	seen []string
}

func (r *resolvers) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	r.mu.Lock()
	r.seen = append(r.seen, addr)
	r.mu.Unlock()
	at, ok := r.real[addr]
	if !ok {
		return nil, net.ErrClosed
	}
	return new(net.Dialer).DialContext(ctx, network, at.String())
}

func (r *resolvers) took() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

func resolvConf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestRotation(t *testing.T) {
	u := newUpstream(t, func(_ string, q []byte) [][]byte { return [][]byte{answerTo(q)} })
	const servers = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
	all := map[string]netip.AddrPort{"192.0.2.1:53": u.addr, "192.0.2.2:53": u.addr, "192.0.2.3:53": u.addr}
	for options, want := range map[string]int{"": 1, "options rotate\n": 3} {
		r := &resolvers{real: all}
		s := New(Options{ResolvConf: resolvConf(t, servers+options), Dial: r.dial})
		for range 6 {
			require.Equal(t, 0, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512)))
		}
		seen := r.took()
		require.Len(t, seen, 6)
		slices.Sort(seen)
		require.Len(t, slices.Compact(seen), want, options)
	}
}

// TestSilentResolver has a resolver that takes questions and never answers.
func TestSilentResolver(t *testing.T) {
	silent := newUpstream(t, func(string, []byte) [][]byte { return nil })
	good := newUpstream(t, func(_ string, q []byte) [][]byte { return [][]byte{answerTo(q)} })
	r := &resolvers{real: map[string]netip.AddrPort{"192.0.2.1:53": silent.addr, "192.0.2.2:53": good.addr}}
	s := New(Options{ResolvConf: resolvConf(t, "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions timeout:1\n"), Dial: r.dial})
	require.Equal(t, 0, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512)))
	require.Equal(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, r.took())

	// One that is not there at all, as often as the file says.
	s = New(Options{ResolvConf: resolvConf(t, "nameserver 192.0.2.8\nnameserver 192.0.2.9\noptions attempts:3\n"), Dial: r.dial})
	require.Equal(t, rcodeServer, rcode(s.Handle(t.Context(), ask("a.com", typeA, 0), 512)))
	require.Equal(t, []string{"192.0.2.8:53", "192.0.2.9:53", "192.0.2.8:53", "192.0.2.9:53", "192.0.2.8:53", "192.0.2.9:53"}, r.took())

	// Who asked is gone: nobody waits for the resolver's time.
	ctx, cancel := context.WithCancel(t.Context())
	s = New(Options{ResolvConf: resolvConf(t, "nameserver 192.0.2.1\noptions timeout:30\n"), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		defer cancel()
		return r.dial(ctx, network, addr)
	}})
	require.Equal(t, rcodeServer, rcode(s.Handle(ctx, ask("a.com", typeA, 0), 512)))
}

// TestDeniedAlias has an allowed name that stands for one which a rule denies.
func TestDeniedAlias(t *testing.T) {
	u := newUpstream(t, func(_ string, q []byte) [][]byte {
		return [][]byte{answerTo(q, rr("a.com", typeCNAME, 60, wireName("x.cdn.net")...),
			rr("x.cdn.net", typeCNAME, 60, wireName("Tracker.Evil.com")...), rr("tracker.evil.com", typeA, 60, 93, 184, 216, 34))}
	})
	for _, c := range []struct {
		rules []string
		code  int
	}{
		{nil, 0},
		{[]string{"tracker.evil.com"}, rcodeName},
		{[]string{"*.evil.com"}, rcodeName},
		{[]string{"*.cdn.net"}, rcodeName},
		{[]string{"evil.com", "other.com"}, 0},
		{[]string{"tcp:tracker.evil.com:25"}, 0}, // only some of its flows
	} {
		cfg := egress.Config{}
		for _, text := range c.rules {
			r, err := egress.ParseRule(egress.Deny, text)
			require.NoError(t, err)
			cfg.Rules = append(cfg.Rules, r)
		}
		allow, err := egress.ParseRule(egress.Allow, "a.com")
		require.NoError(t, err)
		cfg.Rules = append(cfg.Rules, allow)
		p, err := egress.New(cfg, egress.Options{LocalAddrs: func() []netip.Prefix { return []netip.Prefix{} }})
		require.NoError(t, err)
		s := New(Options{Policy: p, Upstreams: []netip.AddrPort{u.addr}})
		out := s.Handle(t.Context(), ask("a.com", typeA, 0), 512)
		require.Equal(t, c.code, rcode(out), "%v", c.rules)
		reachable := p.Check(t.Context(), egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort("93.184.216.34:443")}).Allow
		require.Equal(t, c.code == 0, reachable, "%v: what was not answered is not pinned", c.rules)
		p.Close()
	}
}

// TestIdleStream has clients that connect and say nothing, or half of something.
func TestIdleStream(t *testing.T) {
	s := New(Options{IdleTimeout: time.Millisecond})
	for _, text := range []string{"", "\x00", "\x00\x20abc", "\x00\x00", "\xff\xff"} {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); s.ServeStream(t.Context(), server) }()
		if text != "" {
			_, _ = client.Write([]byte(text))
		}
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatalf("%q keeps its place", text)
		}
		client.Close()
	}
}
