package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckNetworkRule(t *testing.T) {
	for _, rule := range []string{"example.com", "*.example.com:443", "tcp:10.0.0.0/8:80-90,443", "icmp:*", "localhost:80", "sctp:80", "[2001:db8::1]:443", "2001:db8::/32", "dead:beef::1"} {
		require.NoError(t, CheckNetworkRule(rule), rule)
	}
	for rule, want := range map[string]string{
		"http://x":            "write the name without http://",
		"tcp:https://x":       "write the name without https://",
		"sctp:example.com":    `there is no protocol "sctp": choose tcp, udp or icmp, or leave it out for all`,
		"sctp:example.com:80": `there is no protocol "sctp": choose tcp, udp or icmp, or leave it out for all`,
		"sctp:10.0.0.0/8":     `there is no protocol "sctp": choose tcp, udp or icmp, or leave it out for all`,
		"sctp:[::1]:80":       `there is no protocol "sctp": choose tcp, udp or icmp, or leave it out for all`,
		"example.com:http":    `"http" is no port and no range of ports`,
		"localhost:http":      `"http" is no port and no range of ports`,
		"":                    "the destination is missing: give a name, an address or a CIDR",
		"icmp:example.com:80": "icmp has no ports",
	} {
		err := CheckNetworkRule(rule)
		require.EqualError(t, err, want, rule)
		require.ErrorIs(t, err, ErrInvalidArgument)
	}
}

// TestNetworkRuleOfBox has the library say in which list a wrong rule stands.
func TestNetworkRuleOfBox(t *testing.T) {
	rt := plainRuntime(t)
	_, err := rt.Create(t.Context(), BoxOptions{Network: NetworkSpec{Allow: []string{"a.com"}, Deny: []string{"http://x"}}}, "")
	require.ErrorIs(t, err, ErrInvalidArgument)
	require.EqualError(t, err, `network: Deny "http://x": write the name without http://`)
}
