package main

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]runtime.PortSpec{
		"80":                  {GuestPort: 80},
		"8080:80":             {HostPort: 8080, GuestPort: 80},
		":80":                 {GuestPort: 80},
		"0.0.0.0:8080:80/tcp": {HostIP: "0.0.0.0", HostPort: 8080, GuestPort: 80, Protocol: runtime.PortTCP},
		"127.0.0.1::53/udp":   {HostIP: "127.0.0.1", GuestPort: 53, Protocol: runtime.PortUDP},
		"[::1]:8080:80":       {HostIP: "::1", HostPort: 8080, GuestPort: 80},
	} {
		got, err := parsePort(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "0", "65536", "http", "1:2:3", "80/sctp", "x:80", "70000:80", "8080:", "localhost:1:2"} {
		_, err := parsePort(text)
		require.Error(t, err, text)
	}
}

func TestNetworkFlagsRefused(t *testing.T) {
	for _, f := range []networkFlags{{mode: "host"}, {mode: "isolated", publish: []string{"x"}}} {
		_, _, err := f.spec("run")
		require.Error(t, err)
	}
}
