package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]runtime.PortSpec{
		"80":                  {GuestPort: 80},
		"8080:80":             {HostPort: 8080, GuestPort: 80},
		":80":                 {GuestPort: 80},
		"0:80":                {GuestPort: 80},
		"53:53/UDP":           {HostPort: 53, GuestPort: 53, Protocol: runtime.PortUDP},
		"0.0.0.0:8080:80/tcp": {HostIP: "0.0.0.0", HostPort: 8080, GuestPort: 80, Protocol: runtime.PortTCP},
		"127.0.0.1::53/udp":   {HostIP: "127.0.0.1", GuestPort: 53, Protocol: runtime.PortUDP},
		"[::1]:8080:80":       {HostIP: "::1", HostPort: 8080, GuestPort: 80},
	} {
		got, err := parsePort(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"":                   "no port of the box is named: want [[IP:]HOSTPORT:]PORT[/tcp|/udp]",
		"8080:":              "no port of the box is named",
		"0":                  `PORT "0": choose 1 to 65535`,
		"65536":              `PORT "65536": choose 1 to 65535`,
		"8080:70000":         `PORT "70000": choose 1 to 65535`,
		"70000:80":           `HOSTPORT "70000": choose 0 to 65535`,
		"http":               `PORT "http": want [[IP:]HOSTPORT:]PORT[/tcp|/udp]`,
		"x:80":               `HOSTPORT "x": want [[IP:]HOSTPORT:]PORT[/tcp|/udp]`,
		"-1:80":              `HOSTPORT "-1": want [[IP:]HOSTPORT:]PORT`,
		"8000-8010:80":       `HOSTPORT "8000-8010": there are no ranges of ports here: name each port by itself`,
		"8000:8000-8010/udp": `PORT "8000-8010": there are no ranges of ports here: name each port by itself`,
		"80/sctp":            `there is no protocol "sctp": choose tcp or udp`,
		"80/":                `there is no protocol "": choose tcp or udp`,
		"1:2:3":              `"1" is no IP address`,
		"localhost:1:2":      `"localhost" is no IP address: want [[IP:]HOSTPORT:]PORT[/tcp|/udp], IP in numbers, such as 127.0.0.1`,
	} {
		_, err := parsePort(text)
		require.ErrorContains(t, err, fmt.Sprintf("%q: %s", text, want))
	}
}

// TestNetworkFlagsRefused looks for the flag, and what it may be, in what is said of each.
func TestNetworkFlagsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--network host":                       `--network "host": choose isolated or none`,
		"-p x":                                 `-p "x": PORT "x": want`,
		"--deny-net http://x":                  `--deny-net "http://x": write the name without http://; a rule is [tcp:|udp:|icmp:]NAME|*.NAME|IP|CIDR[:PORT[-PORT],...]`,
		"--allow-net sctp:a.com":               `--allow-net "sctp:a.com": there is no protocol "sctp": choose tcp, udp or icmp, or leave it out for all; a rule is`,
		"--network none --allow-net a.com":     "--network none and --allow-net: ",
		"--network none --deny-net a.com":      "--network none and --deny-net: ",
		"--network none --allow-host":          "--network none and --allow-host: ",
		"--network none --allow-private":       "--network none and --allow-private: ",
		"--network none --pcap f":              "--network none and --pcap: ",
		"--network none --publish 80":          "--network none and -p: ",
		"--network none --deny-net x -p 80:80": "--network none and --deny-net: ",
	} {
		for _, command := range []string{"run", "create"} {
			r := output(t, append(append([]string{"--home", t.TempDir(), command}, strings.Fields(args)...), "x")...)
			require.Equal(t, exitFailed, r.code, args)
			require.True(t, strings.HasPrefix(r.stderr, "boxlite: "+command+": "+want), "%s: %s", args, r.stderr)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		}
	}
}
