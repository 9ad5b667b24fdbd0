package boot

import (
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
)

func TestHostsFile(t *testing.T) {
	require.Equal(t, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tb\n10.0.0.1\tx y\n::2\tz\n",
		hostsFile("b", []agentapi.Host{{Addr: "10.0.0.1", Names: []string{"x", "y"}}, {Addr: "::2", Names: []string{"z"}}}))
}

func TestNamesThatBreakFiles(t *testing.T) {
	for _, name := range []string{"box", "a.b-c_d", strings.Repeat("x", 64)} {
		require.Empty(t, badHostname(name))
	}
	for _, name := range []string{strings.Repeat("x", 65), "a b", "a\nb", "a/b", "ü"} {
		require.NotEmpty(t, badHostname(name), "%q", name)
	}
	require.Empty(t, badHosts([]agentapi.Host{{Addr: "1.2.3.4", Names: []string{"a"}}}))
	for _, h := range []agentapi.Host{{}, {Addr: "1 2"}, {Addr: "1.2.3.4", Names: []string{""}}, {Addr: "1.2.3.4", Names: []string{"a\n6.6.6.6 b"}}, {Addr: "#"}} {
		require.NotEmpty(t, badHosts([]agentapi.Host{h}), "%+v", h)
	}
}
