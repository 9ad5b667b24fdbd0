package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseRule(t *testing.T) {
	good := map[string]string{ // text: as it is shown
		"Example.COM.": "example.com", "*.a.com:443": "*.a.com:443", "*": "*", "tcp:*:80": "tcp:*:80",
		"TCP:a.com:80,440-450": "tcp:a.com:80,440-450", "1.2.3.4": "1.2.3.4", "10.1.2.3/8": "10.0.0.0/8",
		"udp:10.0.0.0/8:53-53": "udp:10.0.0.0/8:53", "2001:db8::1": "2001:db8::1", "[2001:db8::1]:443": "[2001:db8::1]:443",
		"[2001:db8::/32]:1-2": "[2001:db8::/32]:1-2", "[2001:db8::]/32:1": "[2001:db8::/32]:1", "icmp:[fd00::1]": "icmp:[fd00::1]",
		"::ffff:1.2.3.4": "1.2.3.4", "_srv.a.com": "_srv.a.com",
	}
	for text, want := range good {
		r := mustRule(t, text)
		require.Equal(t, want, r.String())
		b, err := json.Marshal(r)
		require.NoError(t, err)
		var back Rule
		require.NoError(t, json.Unmarshal(b, &back))
		require.Equal(t, r, back)
		require.Equal(t, r, mustRule(t, r.String()))
	}
	for _, text := range []string{
		"", ":", "tcp:", "tcp:80", "a.com:", "a.com:0", "a.com:2-1", "a.com:65536", "a.com:80,", "a..com", "*a.com", "a.*.com", "*.*",
		"1.2.3", "1.2.3.4/33", "a.com/8", "[a.com]:80", "[::1", "[::1]x", "icmp:a.com:1", "é.com", "fe80::1%eth0", "a b.com", "::ffff:0:0/90",
	} {
		_, err := ParseRule(Allow, text)
		require.Error(t, err, text)
	}
	for _, text := range []string{"https://a.com", "tcp:https://a.com:443/path", "https://a.com/"} {
		_, err := ParseRule(Allow, text)
		require.EqualError(t, err, fmt.Sprintf("network rule %q: write the name without https://", text))
	}
}

func TestNewRefuses(t *testing.T) {
	known := Options{LocalAddrs: func() []netip.Prefix { return []netip.Prefix{} }}
	for name, c := range map[string]Config{
		"action":   {Rules: []Rule{{Name: "a.com"}}},
		"both":     {Rules: []Rule{{Action: Allow, Name: "a.com", Prefix: netip.MustParsePrefix("1.0.0.0/8")}}},
		"neither":  {Rules: []Rule{{Action: Allow}}},
		"protocol": {Rules: []Rule{{Action: Deny, Name: "a.com", Protocol: 9}}},
		"default":  {Default: 9},
		"too many": {Rules: make([]Rule, MaxRules+1)},
	} {
		_, err := New(c, known)
		require.Error(t, err, name)
	}
	_, err := New(Config{}, Options{LocalAddrs: func() []netip.Prefix { return nil }})
	require.Error(t, err)
}

func TestSpecialRanges(t *testing.T) {
	p, _ := newTest(t, Config{Default: Allow}, "*", "0.0.0.0/0", "::/0")
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "169.254.1.1", "169.254.169.254", "172.16.0.1",
		"172.31.255.255", "192.0.0.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1",
		"255.255.255.255", "168.63.129.16", "192.168.127.1", "198.51.100.7", "::", "::1", "::10.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1",
		"::ffff:0:7f00:1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "fc00::1", "fd00:ec2::254",
		"fe80::1", "fec0::1", "ff02::1", "100::1", "4000::1", "5f00::1",
	} {
		v := p.Check(t.Context(), Flow{TCP, netip.AddrPortFrom(netip.MustParseAddr(a), 80)})
		require.False(t, v.Allow, a)
		require.GreaterOrEqual(t, v.Reason, SpecialHost, a)
	}
	for _, a := range []string{"1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255",
		"2606:4700::1111", "64:ff9b::8.8.8.8", "2003::1"} {
		require.True(t, p.Check(t.Context(), Flow{TCP, netip.AddrPortFrom(netip.MustParseAddr(a), 80)}).Allow, a)
	}
}

func TestLookup(t *testing.T) {
	tests := []struct {
		rules []string
		name  string
		allow bool
	}{
		{nil, "a.com", true},
		{nil, `a\046b.com`, true},
		{[]string{"a.com"}, "A.COM.", true},
		{[]string{"a.com"}, "b.com", false},
		{[]string{"a.com:443"}, "a.com", true},
		{[]string{"1.1.1.1"}, "a.com", false},
		{[]string{"*.a.com"}, `x\046a.com`, false},
		{[]string{"*"}, "a.com", true},
		{[]string{"deny a.com"}, "a.com", false},
		{[]string{"deny a.com"}, "b.com", true},
		{[]string{"deny a.com"}, `b\000.com`, false},
		{[]string{"deny tcp:a.com:25"}, "a.com", true},
		{[]string{"deny *.a.com", "x.a.com"}, "x.a.com", false},
		{[]string{"deny 1.1.1.1"}, "a.com", true},
	}
	for _, tt := range tests {
		p, _ := newTest(t, Config{}, tt.rules...)
		require.Equal(t, tt.allow, p.Lookup(t.Context(), tt.name).Allow, "%v %s", tt.rules, tt.name)
	}
}

func TestPinsEnd(t *testing.T) {
	p, clock := newTest(t, Config{}, "a.com")
	f := flow(t, "udp 93.184.216.34:443")
	allowed := func() bool { return p.Check(t.Context(), f).Allow }
	p.pinText("a.com=93.184.216.34")
	clock.pass(minPin - 1)
	require.True(t, allowed())
	release := p.Hold(f.Dst.Addr())
	clock.pass(time.Hour)
	require.True(t, allowed(), "a flow holds the pin")
	release()
	release()
	require.True(t, allowed(), "time to connect again")
	clock.pass(minPin)
	require.False(t, allowed())
	p.Hold(f.Dst.Addr())()
	require.False(t, allowed())
	p.Pin("a.com", []netip.Addr{f.Dst.Addr()}, time.Hour)
	clock.pass(time.Hour - 1)
	require.True(t, allowed())
	p.Pin("b.com", []netip.Addr{netip.MustParseAddr("1.1.1.1")}, time.Hour)
	require.Nil(t, p.pins.byAddr[netip.MustParseAddr("1.1.1.1")], "a name that is denied was pinned")
}

// TestHostileNamesStayBounded is case 37's guest that resolves a million names.
func TestHostileNamesStayBounded(t *testing.T) {
	p, _ := newTest(t, Config{}, "*.a.com", "a.com", "*.b.a.com")
	one := []netip.Addr{netip.MustParseAddr("93.184.216.34")}
	held := netip.MustParseAddr("9.9.9.9")
	p.Pin("a.com", []netip.Addr{held}, 0)
	release := p.Hold(held)
	for i := range 1_000_000 {
		name := fmt.Sprintf("n%d.a.com", i)
		if i%10 == 0 {
			p.Pin(name, one, 0)
			continue
		}
		p.Pin(name, []netip.Addr{netip.AddrFrom4([4]byte{93, byte(i >> 16), byte(i >> 8), byte(i)})}, 0)
	}
	require.LessOrEqual(t, len(p.pins.byAddr), maxPinned)
	require.LessOrEqual(t, p.pins.count, maxPins)
	require.LessOrEqual(t, len(p.match.known), 2*3+1)
	require.True(t, p.Check(t.Context(), flow(t, "udp 9.9.9.9:1")).Allow, "what is held was pushed out")
	release()
}

func TestCheckDoesNotAllocate(t *testing.T) {
	p, _ := newTest(t, Config{}, "deny 1.0.0.0/8", "*.b.com", "a.com:443")
	p.pinText("a.com=93.184.216.34")
	f, ctx := flow(t, "tcp 93.184.216.34:443"), t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() { p.Check(ctx, f) }))
}

func TestLocalAddressesAreRefreshed(t *testing.T) {
	clock := newClock()
	addrs := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}
	p := newTestWith(t, Config{}, Options{Now: func() time.Time { return clock.now }, LocalAddrs: func() []netip.Prefix { return addrs }})
	f := flow(t, "tcp 203.0.113.9:22")
	require.True(t, p.Check(t.Context(), f).Allow)
	addrs = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}
	clock.pass(localAge)
	require.Equal(t, SpecialPrivate, p.Check(t.Context(), f).Reason)
	addrs = []netip.Prefix{netip.PrefixFrom(f.Dst.Addr(), 32)}
	clock.pass(localAge)
	require.Equal(t, SpecialHost, p.Check(t.Context(), f).Reason)
	addrs = nil
	clock.pass(localAge)
	require.False(t, p.Check(t.Context(), f).Allow, "what is not known keeps the last")
}

func TestAsk(t *testing.T) {
	clock := newClock()
	var calls atomic.Int32
	gate := make(chan struct{})
	p := newTestWith(t, Config{Default: Ask}, Options{
		Now: func() time.Time { return clock.now },
		Ask: func(ctx context.Context, r Request) (Action, error) {
			calls.Add(1)
			switch {
			case r.Name == "slow.com":
				<-gate
				return Allow, nil
			case r.Name == "a.com":
				return Allow, nil
			case r.Name == "broken.com":
				return Allow, errors.New("broken")
			}
			return Deny, nil
		},
	}, "deny evil.com")
	ctx := t.Context()

	require.True(t, p.Lookup(ctx, "a.com").Allow)
	p.pinText("a.com=93.184.216.34")
	v := p.Check(ctx, flow(t, "tcp 93.184.216.34:443"))
	require.True(t, v.Allow && v.NeedsName)
	require.Equal(t, ByAnswer, v.Reason)
	require.EqualValues(t, 1, calls.Load())
	require.False(t, p.Lookup(ctx, "evil.com").Allow)
	require.EqualValues(t, 1, calls.Load(), "a rule decides without asking")

	require.Equal(t, ByAnswer, p.Lookup(ctx, "b.com").Reason)
	require.False(t, p.Lookup(ctx, "b.com").Allow)
	require.EqualValues(t, 2, calls.Load())
	require.Equal(t, NoAnswer, p.Lookup(ctx, "broken.com").Reason)
	require.False(t, p.Check(ctx, flow(t, "tcp 8.8.8.8:53")).Allow)
	require.False(t, p.Check(ctx, flow(t, "tcp 10.0.0.1:53")).Allow)
	require.EqualValues(t, 4, calls.Load(), "special ranges are not asked about")

	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { require.True(t, p.Lookup(ctx, "slow.com").Allow) })
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.False(t, p.Lookup(gone, "slow.com").Allow)
	close(gate)
	wg.Wait()
	require.EqualValues(t, 5, calls.Load(), "one question at a time")

	clock.pass(defaultAskTTL)
	require.True(t, p.Lookup(ctx, "a.com").Allow)
	require.EqualValues(t, 6, calls.Load())
}

// TestAllowedLookupIsNoAnswer has a name that may be resolved because of a rule for
// some flows: what the rule does not cover is asked about, as for any address.
func TestAllowedLookupIsNoAnswer(t *testing.T) {
	for _, rules := range [][]string{{"tcp:*:443"}, {"tcp:*:443", "deny udp:a.com:1"}, {"tcp:a.com:443"}} {
		var asked []Request
		p := newTestWith(t, Config{Default: Ask}, Options{Ask: func(_ context.Context, r Request) (Action, error) {
			asked = append(asked, r)
			return Deny, nil
		}}, rules...)
		require.Equal(t, ByRule, p.Lookup(t.Context(), "a.com").Reason)
		p.pinText("a.com=93.184.216.34")
		require.True(t, p.Check(t.Context(), flow(t, "tcp 93.184.216.34:443")).Allow)
		require.Empty(t, asked)
		for i, text := range []string{"tcp 93.184.216.34:22", "udp 93.184.216.34:53", "icmp 93.184.216.34:0"} {
			v := p.Check(t.Context(), flow(t, text))
			require.False(t, v.Allow, "%v: %s", rules, text)
			require.Equal(t, ByAnswer, v.Reason)
			require.Len(t, asked, i+1)
			require.Equal(t, Request{Name: "a.com", Flow: flow(t, text)}, asked[i])
		}
	}
}

// TestAnswerEndsWithItsPin has an address that lives on by another name: a denial of
// the first one still counts, what an answer allowed it does not.
func TestAnswerEndsWithItsPin(t *testing.T) {
	clock := newClock()
	p := newTestWith(t, Config{Default: Ask}, Options{
		Now: func() time.Time { return clock.now },
		Ask: func(_ context.Context, r Request) (Action, error) {
			if r.Name == "a.com" {
				return Allow, nil
			}
			return Deny, nil
		},
	}, "deny tcp:a.com:25", "tcp:b.com:443")
	require.Equal(t, ByAnswer, p.Lookup(t.Context(), "a.com").Reason)
	p.pinText("a.com=93.184.216.34")
	require.True(t, p.Check(t.Context(), flow(t, "tcp 93.184.216.34:22")).Allow)
	clock.pass(minPin - time.Second)
	p.pinText("b.com=93.184.216.34")
	clock.pass(2 * time.Second)
	require.Equal(t, "deny tcp:a.com:25", p.Check(t.Context(), flow(t, "tcp 93.184.216.34:25")).Rule)
	require.False(t, p.Check(t.Context(), flow(t, "tcp 93.184.216.34:22")).Allow)
	require.True(t, p.Check(t.Context(), flow(t, "tcp 93.184.216.34:443")).Allow)
}

func TestAskWithoutAnswers(t *testing.T) {
	p := newTestWith(t, Config{Default: Ask}, Options{})
	require.False(t, p.Lookup(t.Context(), "a.com").Allow)
	require.False(t, p.Check(t.Context(), flow(t, "tcp 8.8.8.8:53")).Allow)

	p = newTestWith(t, Config{Default: Ask}, Options{
		AskTimeout: time.Millisecond,
		Ask: func(ctx context.Context, _ Request) (Action, error) {
			<-ctx.Done()
			return Allow, nil
		},
	})
	require.Equal(t, NoAnswer, p.Check(t.Context(), flow(t, "tcp 8.8.8.8:53")).Reason)
}

func FuzzParseRule(f *testing.F) {
	f.Add("tcp:a.com:80,443")
	f.Add("[2001:db8::/32]:1-2")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(Allow, text)
		if err != nil {
			return
		}
		again, err := ParseRule(Allow, r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}
