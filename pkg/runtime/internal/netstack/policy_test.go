package netstack

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
)

// TestHostileOtherName reaches an address that an allowed name stands for, and asks
// for another name there.
func TestHostileOtherName(t *testing.T) {
	addr := server(t, func(c net.Conn) {
		c.Write([]byte("hello "))
		io.Copy(c, c)
	})
	rule, err := egress.ParseRule(egress.Allow, "good.example")
	require.NoError(t, err)
	flows := make(chan Flow, 8)
	g := newGuest(t, Config{Policy: policy(t, egress.Config{Rules: []egress.Rule{rule}}), Flows: func(f Flow) { flows <- f }})
	public := netip.MustParseAddr("93.184.215.14") // not reached: the server above answers for it
	g.net.tcp.where = func(dst netip.AddrPort) netip.AddrPort {
		require.Equal(t, public, dst.Addr())
		return hostSide(netip.AddrPortFrom(Host4, dst.Port()))
	}
	g.net.cfg.Policy.Pin("good.example", []netip.Addr{public}, time.Minute)
	ask := func(request string) (string, error) {
		c, err := g.dial(netip.AddrPortFrom(public, addr.Port()))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte(request))
		require.NoError(t, err)
		require.NoError(t, c.(half).CloseWrite())
		b, err := io.ReadAll(c)
		return string(b), err
	}
	good := "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"
	got, err := ask(good)
	require.NoError(t, err)
	require.Equal(t, "hello "+good, got)
	require.True(t, (<-flows).Verdict.Allow)

	got, err = ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	require.ErrorContains(t, err, "reset")
	require.NotContains(t, got, "evil")
	f := <-flows
	require.False(t, f.Verdict.Allow)
	require.Zero(t, f.Sent, "nothing of it left")
}
