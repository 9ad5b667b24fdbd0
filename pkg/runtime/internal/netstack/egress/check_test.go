package egress

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clock is a time that tests move.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Unix(1_700_000_000, 0)} }

func (c *clock) pass(d time.Duration) { c.now = c.now.Add(d) }

const (
	testHost = "host.boxlite.internal"
	hostAddr = "192.168.127.254"
)

// newTest returns a policy of a few rules ("deny X" denies, all else allows).
func newTest(t testing.TB, c Config, rules ...string) (*Policy, *clock) {
	t.Helper()
	clock := newClock()
	return newTestWith(t, c, Options{Now: func() time.Time { return clock.now }}, rules...), clock
}

func newTestWith(t testing.TB, c Config, o Options, rules ...string) *Policy {
	t.Helper()
	for _, text := range rules {
		c.Rules = append(c.Rules, mustRule(t, text))
	}
	o.HostName, o.HostAddrs = testHost, []netip.Addr{netip.MustParseAddr(hostAddr)}
	o.Subnets = []netip.Prefix{netip.MustParsePrefix("192.168.127.0/24")}
	if o.LocalAddrs == nil {
		o.LocalAddrs = func() []netip.Prefix {
			var list []netip.Prefix
			for _, text := range []string{"127.0.0.1/8", "198.51.100.7/24", "203.0.113.7/32", "10.9.8.7/16", "2001:db8:1:2::7/64", "2001:db8:1:2::8/64", "2001:db8:1:3::7/128", "2001:db8:1:4::7/0"} {
				list = append(list, netip.MustParsePrefix(text))
			}
			return list
		}
	}
	p, err := New(c, o)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func mustRule(t testing.TB, text string) Rule {
	t.Helper()
	action := Allow
	if rest, deny := strings.CutPrefix(text, "deny "); deny {
		action, text = Deny, rest
	}
	r, err := ParseRule(action, text)
	require.NoError(t, err)
	return r
}

// flow reads "tcp 1.2.3.4:80", "icmp 1.2.3.4:0".
func flow(t testing.TB, text string) Flow {
	t.Helper()
	var f Flow
	proto, dst, _ := strings.Cut(text, " ")
	require.NoError(t, f.Protocol.UnmarshalText([]byte(proto)))
	f.Dst = netip.MustParseAddrPort(dst)
	return f
}

func (p *Policy) pinText(text string) {
	name, addr, _ := strings.Cut(text, "=")
	p.Pin(name, []netip.Addr{netip.MustParseAddr(addr)}, time.Minute)
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name      string
		config    Config
		rules     []string
		pins      []string // "name=address"
		flow      string
		allow     bool
		reason    Reason
		needsName bool
		named     string
	}{
		{name: "no rules", flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault},
		{name: "no rules, pinned", pins: []string{"a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault, named: "a.com"},
		{name: "any allow rule denies the rest", rules: []string{"1.1.1.1"}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "deny rules allow the rest", rules: []string{"deny 1.1.1.1"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault},
		{name: "explicit default", config: Config{Default: Allow}, rules: []string{"1.1.1.1"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault},
		{name: "explicit denial", config: Config{Default: Deny}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "first match wins", rules: []string{"deny 1.1.1.1", "1.1.1.0/24"}, flow: "tcp 1.1.1.1:53", reason: ByRule},
		{name: "first match wins, other order", rules: []string{"1.1.1.0/24", "deny 1.1.1.1"}, flow: "tcp 1.1.1.1:53", allow: true, reason: ByRule},

		{name: "name, not resolved", rules: []string{"a.com"}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "name", rules: []string{"a.com"}, pins: []string{"A.com.=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule, needsName: true, named: "a.com"},
		{name: "name, mapped address", rules: []string{"a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "tcp [::ffff:93.184.216.34]:443", allow: true, reason: ByRule, needsName: true, named: "a.com"},
		{name: "name over udp", rules: []string{"a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "udp 93.184.216.34:443", allow: true, reason: ByRule, named: "a.com"},
		{name: "name of another address", rules: []string{"a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "tcp 93.184.216.35:443", reason: ByDefault},
		{name: "name below is another name", rules: []string{"a.com"}, pins: []string{"b.a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "wildcard", rules: []string{"*.a.com"}, pins: []string{"c.b.a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule, needsName: true, named: "c.b.a.com"},
		{name: "wildcard is not the name itself", rules: []string{"*.a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "wildcard is not a suffix", rules: []string{"*.a.com"}, pins: []string{"xa.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", reason: ByDefault},
		{name: "one of several names", rules: []string{"a.com", "b.com:80"}, pins: []string{"b.com=93.184.216.34", "a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule, needsName: true, named: "a.com"},
		{name: "star", rules: []string{"*:443"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule},
		{name: "star's port", rules: []string{"*:443"}, flow: "tcp 93.184.216.34:80", reason: ByDefault},
		{name: "address makes the name needless", rules: []string{"93.184.216.0/24", "a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule, named: "a.com"},

		{name: "denied name, unknown address", rules: []string{"deny a.com"}, flow: "tcp 93.184.216.34:443", reason: NameUnknown},
		{name: "denied name, unknown address, star", rules: []string{"deny a.com", "*"}, flow: "udp 93.184.216.34:443", reason: NameUnknown},
		{name: "denied name, address allowed", rules: []string{"deny a.com", "93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByRule},
		{name: "denied name, other name", rules: []string{"deny a.com"}, pins: []string{"b.com=93.184.216.34"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault, needsName: true, named: "b.com"},
		{name: "denied name's port, unknown address", rules: []string{"deny tcp:a.com:25"}, flow: "tcp 93.184.216.34:443", allow: true, reason: ByDefault},
		{name: "denied name's port", rules: []string{"deny tcp:a.com:25"}, pins: []string{"a.com=93.184.216.34"}, flow: "tcp 93.184.216.34:25", reason: ByRule, named: "a.com"},
		{name: "denied name's port beside another name", rules: []string{"deny tcp:a.com:25"}, pins: []string{"a.com=93.184.216.34", "b.com=93.184.216.34"}, flow: "tcp 93.184.216.34:25", reason: ByRule, named: "a.com"},
		{name: "star denied", config: Config{Default: Allow}, rules: []string{"a.com", "deny *"}, flow: "tcp 93.184.216.34:25", reason: ByRule},

		{name: "protocol", rules: []string{"udp:1.1.1.1:53"}, flow: "udp 1.1.1.1:53", allow: true, reason: ByRule},
		{name: "other protocol", rules: []string{"udp:1.1.1.1:53"}, flow: "tcp 1.1.1.1:53", reason: ByDefault},
		{name: "ports", rules: []string{"1.1.1.1:80,440-450"}, flow: "udp 1.1.1.1:450", allow: true, reason: ByRule},
		{name: "outside of the ports", rules: []string{"1.1.1.1:80,440-450"}, flow: "udp 1.1.1.1:451", reason: ByDefault},
		{name: "icmp", rules: []string{"icmp:1.1.1.1"}, flow: "icmp 1.1.1.1:0", allow: true, reason: ByRule},
		{name: "icmp has no ports", rules: []string{"1.1.1.1:1-65535"}, flow: "icmp 1.1.1.1:0", reason: ByDefault},
		{name: "icmp by name", rules: []string{"a.com"}, pins: []string{"a.com=93.184.216.34"}, flow: "icmp 93.184.216.34:0", allow: true, reason: ByRule, named: "a.com"},

		{name: "names do not open private networks", rules: []string{"a.com"}, pins: []string{"a.com=10.0.0.1"}, flow: "tcp 10.0.0.1:443", reason: SpecialPrivate, named: "a.com"},
		{name: "star does not open private networks", rules: []string{"*"}, flow: "tcp 10.0.0.1:443", reason: SpecialPrivate},
		{name: "wide prefix does not open private networks", rules: []string{"0.0.0.0/0"}, flow: "tcp 10.0.0.1:443", reason: SpecialPrivate},
		{name: "prefix of the range opens it", rules: []string{"10.0.0.0/8"}, flow: "tcp 10.0.0.1:443", allow: true, reason: ByRule},
		{name: "prefix inside opens it", rules: []string{"10.0.0.0/30:443"}, flow: "tcp 10.0.0.1:443", allow: true, reason: ByRule},
		{name: "prefix's ports", rules: []string{"10.0.0.0/30:443"}, flow: "tcp 10.0.0.1:80", reason: SpecialPrivate},
		{name: "private networks allowed", config: Config{AllowPrivate: true}, flow: "tcp 10.0.0.1:443", allow: true, reason: ByDefault},
		{name: "private networks allowed, rules go on", config: Config{AllowPrivate: true}, rules: []string{"a.com"}, flow: "tcp 10.0.0.1:443", reason: ByDefault},
		{name: "private networks allowed, by name", config: Config{AllowPrivate: true}, rules: []string{"a.com"}, pins: []string{"a.com=fd12::1"}, flow: "tcp [fd12::1]:443", allow: true, reason: ByRule, needsName: true, named: "a.com"},
		{name: "private networks allowed, not the host", config: Config{AllowPrivate: true}, flow: "tcp 10.9.8.7:443", reason: SpecialHost},
		{name: "private networks allowed, not the box's", config: Config{AllowPrivate: true}, flow: "tcp 192.168.127.3:443", reason: SpecialNetwork},
		{name: "private networks allowed, not metadata", config: Config{AllowPrivate: true}, flow: "tcp [fd00:ec2::254]:80", reason: SpecialMetadata},
		{name: "denials hold in special ranges", config: Config{AllowPrivate: true}, rules: []string{"deny *:25"}, flow: "tcp 10.0.0.1:25", reason: ByRule},
		{name: "metadata", rules: []string{"169.254.0.0/16"}, flow: "tcp 169.254.169.254:80", reason: SpecialMetadata},
		{name: "metadata, exactly", rules: []string{"169.254.169.254"}, flow: "tcp 169.254.169.254:80", allow: true, reason: ByRule},
		{name: "the host's public address", flow: "tcp 198.51.100.7:22", reason: SpecialHost},
		{name: "the host's public address, network allowed", rules: []string{"198.51.100.0/24"}, flow: "tcp 198.51.100.7:22", reason: SpecialHost},
		{name: "the host's public address, exactly", rules: []string{"198.51.100.7:22"}, flow: "tcp 198.51.100.7:22", allow: true, reason: ByRule},
		{name: "the host's public address by NAT64", flow: "tcp [64:ff9b::198.51.100.7]:22", reason: SpecialHost},
		{name: "private by NAT64", config: Config{AllowPrivate: true}, flow: "tcp [64:ff9b::10.0.0.1]:22", reason: SpecialPrivate},
		{name: "public by NAT64", flow: "tcp [64:ff9b::93.184.216.34]:22", allow: true, reason: ByDefault},
		{name: "denied by NAT64", rules: []string{"deny 93.184.216.0/24"}, flow: "tcp [64:ff9b::93.184.216.34]:22", reason: ByRule},
		{name: "not allowed by NAT64", rules: []string{"93.184.216.0/24"}, flow: "tcp [64:ff9b::93.184.216.34]:22", reason: ByDefault},

		{name: "neighbour", flow: "tcp [2001:db8:1:2::1]:80", reason: SpecialPrivate},
		{name: "neighbour over IPv4", flow: "tcp 198.51.100.8:80", reason: SpecialPrivate},
		{name: "neighbour, mapped address", flow: "tcp [::ffff:198.51.100.8]:80", reason: SpecialPrivate},
		{name: "neighbour by NAT64", flow: "tcp [64:ff9b::198.51.100.8]:80", reason: SpecialPrivate},
		{name: "neighbour by name", rules: []string{"a.com"}, pins: []string{"a.com=2001:db8:1:2::1"}, flow: "tcp [2001:db8:1:2::1]:80", reason: SpecialPrivate, named: "a.com"},
		{name: "neighbour, wide prefix", rules: []string{"2001:db8::/32"}, flow: "tcp [2001:db8:1:2::1]:80", reason: SpecialPrivate},
		{name: "neighbour, its network", rules: []string{"2001:db8:1:2::/64"}, flow: "tcp [2001:db8:1:2::1]:80", allow: true, reason: ByRule},
		{name: "neighbour, exactly", rules: []string{"198.51.100.8:80"}, flow: "tcp 198.51.100.8:80", allow: true, reason: ByRule},
		{name: "neighbour, private networks allowed", config: Config{AllowPrivate: true}, flow: "tcp [2001:db8:1:2::1]:80", allow: true, reason: ByDefault},
		{name: "the host beside its neighbours", config: Config{AllowPrivate: true}, flow: "tcp [2001:db8:1:2::8]:80", reason: SpecialHost},
		{name: "next network", flow: "tcp [2001:db8:1:5::1]:80", allow: true, reason: ByDefault},
		{name: "next network over IPv4", flow: "tcp 198.51.101.8:80", allow: true, reason: ByDefault},
		{name: "a single address has no neighbours", flow: "tcp 203.0.113.8:80", allow: true, reason: ByDefault},
		{name: "network of everything", flow: "tcp [2001:db8:1:4::1]:80", allow: true, reason: ByDefault},
		{name: "private network of the host, all of its range", rules: []string{"10.0.0.0/8"}, flow: "tcp 10.9.1.1:80", allow: true, reason: ByRule},
		{name: "loopback is no network of the host", config: Config{AllowPrivate: true}, flow: "tcp 127.0.0.2:80", reason: SpecialLoopback},

		{name: "host", flow: "tcp 192.168.127.254:8080", reason: SpecialHost, named: testHost},
		{name: "host allowed", config: Config{AllowHost: true, Default: Deny}, flow: "tcp 192.168.127.254:8080", allow: true, reason: ByHost, named: testHost},
		{name: "host allowed, port denied", config: Config{AllowHost: true}, rules: []string{"deny host.boxlite.internal:22"}, flow: "tcp 192.168.127.254:22", reason: ByRule, named: testHost},
		{name: "host by name", rules: []string{"tcp:host.boxlite.internal:8080"}, flow: "tcp 192.168.127.254:8080", allow: true, reason: ByRule, named: testHost},
		{name: "host by name, other port", rules: []string{"tcp:host.boxlite.internal:8080"}, flow: "tcp 192.168.127.254:8081", reason: SpecialHost, named: testHost},
		{name: "host by name, other protocol", rules: []string{"tcp:host.boxlite.internal:8080"}, flow: "udp 192.168.127.254:8080", reason: SpecialHost, named: testHost},
		{name: "host by wildcard", rules: []string{"*.boxlite.internal"}, flow: "tcp 192.168.127.254:8080", reason: SpecialHost, named: testHost},
		{name: "host by pinned name", rules: []string{"a.com"}, pins: []string{"a.com=192.168.127.254"}, flow: "tcp 192.168.127.254:8080", reason: SpecialHost, named: testHost},
		{name: "host by address", rules: []string{"192.168.127.254:80"}, flow: "tcp 192.168.127.254:80", allow: true, reason: ByRule, named: testHost},
		{name: "host's name pinned elsewhere", rules: []string{"host.boxlite.internal"}, pins: []string{"host.boxlite.internal=10.0.0.1"}, flow: "tcp 10.0.0.1:80", reason: SpecialPrivate, named: testHost},
		{name: "host allowed is not loopback", config: Config{AllowHost: true}, flow: "tcp 127.0.0.1:80", reason: SpecialHost},

		{name: "port 0", flow: "tcp 1.1.1.1:0", reason: AddressInvalid},
		{name: "zone", flow: "tcp [fe80::1%eth0]:1", reason: SpecialLinkLocal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := newTest(t, tt.config, tt.rules...)
			for _, pin := range tt.pins {
				p.pinText(pin)
			}
			v := p.Check(context.Background(), flow(t, tt.flow))
			require.Equal(t, tt.reason.String(), v.Reason.String())
			require.Equal(t, tt.allow, v.Allow)
			require.Equal(t, tt.needsName, v.NeedsName)
			require.Equal(t, tt.named, v.Name)
			require.Equal(t, v.Reason == ByRule, v.Rule != "")
		})
	}
}
