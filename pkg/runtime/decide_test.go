package runtime

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
)

func TestDecideOptions(t *testing.T) {
	rt := plainRuntime(t)
	yes := func(context.Context, Destination) (bool, error) { return true, nil }
	for name, n := range map[string]NetworkSpec{
		"no network":       {Mode: NetworkNone, Decide: yes},
		"no network, ask":  {Mode: NetworkNone, Ask: true},
		"negative timeout": {Decide: yes, DecideTimeout: -1},
		"long timeout":     {Decide: yes, DecideTimeout: 2 * time.Hour},
	} {
		_, err := rt.Create(t.Context(), BoxOptions{Network: n}, "")
		require.ErrorIs(t, err, ErrInvalidArgument, name)
	}
	b, err := rt.Create(t.Context(), BoxOptions{KeepOnStop: true, Network: NetworkSpec{Allow: []string{"a.com"}, Decide: yes}}, "one")
	require.NoError(t, err)
	policy, err := b.opts.Network.policy()
	require.NoError(t, err)
	require.Equal(t, egress.Ask, policy.Default, "not denied, though something is allowed")
	require.ErrorIs(t, b.Decide(t.Context(), yes), ErrInvalidState, "it does not run")

	again, err := rt.Get(t.Context(), "one")
	require.NoError(t, err)
	require.NotNil(t, again.Options().Network.Decide, "handles of one runtime share it")
	n, err := again.vmmNetwork(t.Context())
	require.NoError(t, err)
	require.True(t, n.Decider)
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	elsewhere, err := other.Get(t.Context(), "one")
	require.NoError(t, err)
	require.Nil(t, elsewhere.Options().Network.Decide)
	require.True(t, elsewhere.Options().Network.Ask, "it goes on denying")
	n, err = elsewhere.vmmNetwork(t.Context())
	require.NoError(t, err)
	require.False(t, n.Decider, "nobody is waited for")
	require.Equal(t, egress.Ask, n.Policy.Default)

	require.NoError(t, rt.Remove(t.Context(), "one", false))
	require.Empty(t, rt.decide)
}

// TestDecider holds what becomes of a callback's answer to what allows: true, without
// an error, in time.
func TestDecider(t *testing.T) {
	rt := plainRuntime(t)
	b, err := rt.Create(t.Context(), BoxOptions{KeepOnStop: true}, "")
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var got Destination
	flow := egress.Request{Name: "a.com", Flow: egress.Flow{Protocol: egress.UDP, Dst: netip.MustParseAddrPort("[2001:db8::1]:53")}}
	for name, c := range map[string]struct {
		ctx    context.Context
		f      DecideFunc
		action egress.Action
	}{
		"yes":       {t.Context(), func(_ context.Context, d Destination) (bool, error) { got = d; return true, nil }, egress.Allow},
		"no":        {t.Context(), func(context.Context, Destination) (bool, error) { return false, nil }, egress.Deny},
		"error":     {t.Context(), func(context.Context, Destination) (bool, error) { return true, errors.New("broken") }, 0},
		"panic":     {t.Context(), func(context.Context, Destination) (bool, error) { panic("broken") }, 0},
		"nil panic": {t.Context(), func(context.Context, Destination) (bool, error) { var f func(); f(); return true, nil }, 0},
		"too late":  {ended, func(context.Context, Destination) (bool, error) { return true, nil }, 0},
	} {
		require.Equal(t, c.action, b.decider(c.f)(c.ctx, flow), name)
	}
	require.Equal(t, Destination{b.ID(), "a.com", flow.Flow.Dst, ProtocolUDP}, got)
	require.Equal(t, "udp to a.com ([2001:db8::1]:53)", got.String())
	require.Equal(t, "a.com", Destination{Name: "a.com", Protocol: ProtocolDNS}.String())
	require.Equal(t, "icmp to 1.2.3.4", Destination{Addr: netip.MustParseAddrPort("1.2.3.4:0"), Protocol: ProtocolICMP}.String())
	b.decider(func(_ context.Context, d Destination) (bool, error) { got = d; return false, nil })(t.Context(), egress.Request{Name: "b.com"})
	require.Equal(t, Destination{Box: b.ID(), Name: "b.com", Protocol: ProtocolDNS}, got)
}
