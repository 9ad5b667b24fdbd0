package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestNetworkLog(t *testing.T) {
	do, ids := madeBoxes(t)
	folder := inspectFolder(t, do, "web")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	var log strings.Builder
	old := time.Now().Add(-2 * time.Hour).UTC()
	for _, f := range []runtime.Flow{
		{Time: old, Seconds: 1.5, Protocol: runtime.ProtocolTCP, From: netip.MustParseAddrPort("192.168.127.2:4000"),
			To: netip.MustParseAddrPort("192.0.2.1:443"), Name: "example.com", Action: "allow", Rule: "allow example.com", Sent: 1200, Received: 3_400_000},
		{Time: old, Protocol: runtime.ProtocolTCP, Inbound: true, From: netip.MustParseAddrPort("127.0.0.1:4001"),
			To: netip.MustParseAddrPort("192.168.127.2:80"), Action: "allow", Error: "connection reset by peer"},
		{Time: time.Now(), Protocol: runtime.ProtocolDNS, Name: "evil.example\x1b[2J", Action: "deny", Reason: "default"},
		{Time: time.Now(), Protocol: runtime.ProtocolICMP, From: netip.MustParseAddrPort("192.168.127.2:0"), To: netip.MustParseAddrPort("10.0.0.1:0"), Action: "deny", Reason: "private network"},
	} {
		line, err := json.Marshal(f)
		require.NoError(t, err)
		fmt.Fprintf(&log, "%s\n", line)
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "network.log"), []byte(log.String()), 0o600))

	for _, args := range [][]string{{"web"}, {"-f", ids["web"]}} { // it does not run: following ends
		r := do(append([]string{"network", "log"}, args...)...)
		require.Zero(t, r.code, r.stderr)
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		require.Len(t, lines, 5)
		require.Equal(t, flowHeader, strings.Fields(lines[0]))
		require.Regexp(t, `^20\S+Z +tcp +192.168.127.2:4000 +192.0.2.1:443 +example.com +allow example.com +1.2kB +3.4MB +1.5s$`, lines[1])
		require.Regexp(t, ` tcp +127.0.0.1:4001 +192.168.127.2:80 +port: connection reset by peer +0B`, lines[2])
		require.Contains(t, lines[3], `"evil.example\x1b[2J"`)
		require.Contains(t, lines[3], "deny (default)")
		require.Regexp(t, ` icmp +192.168.127.2 +10.0.0.1 +deny \(private network\)`, lines[4])
	}
	require.Equal(t, "deny 10.0.0.1\n", do("network", "logs", "-n", "1", "--format", "{{.Action}} {{.To}}", "web").stdout)
	require.Equal(t, "TO         SENT\n10.0.0.1   0\n", do("network", "log", "-n", "1", "--format", `table {{.To}}\t{{.Sent}}`, "web").stdout)
	require.Equal(t, "evil.example\x1b[2J\n\n", do("network", "log", "--since", "1h", "--format", "{{.Name}}", "web").stdout)
	json := do("network", "log", "--format", "json", "web")
	require.Equal(t, log.String(), json.stdout)
	require.Empty(t, do("network", "log", "-n", "0", "--format", "json", "web").stdout)
	require.Equal(t, 1, do("network", "log", "none").code)
	for _, wrong := range [][]string{{"-n", "x", "web"}, {"--since", "yesterday", "web"}, {"--format", "{{.Nothing}}", "web"}, {}} {
		require.Equal(t, 125, do(append([]string{"network", "log"}, wrong...)...).code, wrong)
	}
}

func inspectFolder(t *testing.T, do func(...string) result, box string) string {
	t.Helper()
	r := do("inspect", "-f", "{{.Folder}}", box)
	require.Zero(t, r.code, r.stderr)
	return strings.TrimSpace(r.stdout)
}

func TestPortsText(t *testing.T) {
	require.Empty(t, portsText(nil))
	require.Equal(t, "127.0.0.1:8080->80/tcp, [::]:53->5353/udp", portsText([]runtime.PortSpec{
		{HostIP: "127.0.0.1", HostPort: 8080, GuestPort: 80, Protocol: runtime.PortTCP},
		{HostIP: "::", HostPort: 53, GuestPort: 5353, Protocol: runtime.PortUDP},
	}))
}
