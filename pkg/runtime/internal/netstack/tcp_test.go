package netstack

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
)

func TestTCPEcho(t *testing.T) {
	g := newGuest(t, Config{})
	c, err := g.dial(echoServer(t))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf))
}

// half is a connection that can end one direction.
type half interface{ CloseWrite() error }

func TestTCPHalfClose(t *testing.T) {
	g := newGuest(t, Config{})
	got := make(chan string, 1)
	addr := server(t, func(c net.Conn) { // answers once it has all of the question
		q, _ := io.ReadAll(c)
		got <- string(q)
		c.Write([]byte("answer"))
	})
	c, err := g.dial(addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("question"))
	require.NoError(t, err)
	require.NoError(t, c.(half).CloseWrite())
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "answer", string(answer))
	require.Equal(t, "question", <-got)
}

func TestTCPRefusedAndReset(t *testing.T) {
	g := newGuest(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	_, err = g.dial(netip.AddrPortFrom(Host4, port))
	require.ErrorContains(t, err, "refused")

	addr := server(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	})
	c, err := g.dial(addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte{1})
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	require.ErrorContains(t, err, "reset")
}

// TestTCPBulk sends much both ways at once and compares.
func TestTCPBulk(t *testing.T) {
	const size = 32 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	g := newGuest(t, Config{})
	c, err := g.dial(echoServer(t))
	require.NoError(t, err)
	defer c.Close()
	var writing sync.WaitGroup
	writing.Go(func() {
		_, err := c.Write(data)
		require.NoError(t, err)
		require.NoError(t, c.(half).CloseWrite())
	})
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	require.NoError(t, err)
	writing.Wait()
	require.EqualValues(t, size, n)
	want := sha256.Sum256(data)
	require.Equal(t, want[:], sum.Sum(nil))
	require.Zero(t, g.net.Stats().Dropped)
}

// TestTCPBackPressure has a host that does not read: the guest must be held up, and
// the other direction must go on.
func TestTCPBackPressure(t *testing.T) {
	g := newGuest(t, Config{})
	release := make(chan struct{})
	addr := server(t, func(c net.Conn) {
		c.Write(bytes.Repeat([]byte("x"), 1<<20))
		<-release
		io.Copy(io.Discard, c)
	})
	c, err := g.dial(addr)
	require.NoError(t, err)
	defer c.Close()
	sent := 0
	for { // until nothing more is taken
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(make([]byte, 1<<20))
		sent += n
		if err != nil {
			break
		}
		require.Less(t, sent, 64<<20, "somebody keeps it all")
	}
	_, err = io.ReadFull(c, make([]byte, 1<<20))
	require.NoError(t, err)
	close(release)
}

func TestTCPManyConnections(t *testing.T) {
	g := newGuest(t, Config{})
	addr := echoServer(t)
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			c, err := g.dial(addr)
			require.NoError(t, err)
			defer c.Close()
			msg := []byte{byte(i), byte(i >> 8)}
			_, err = c.Write(msg)
			require.NoError(t, err)
			got := make([]byte, 2)
			_, err = io.ReadFull(c, got)
			require.NoError(t, err)
			require.Equal(t, msg, got)
		})
	}
	all.Wait()
	require.EqualValues(t, 500, g.net.Stats().TCPTotal)
	require.Eventually(t, func() bool { return g.net.Stats().TCPActive == 0 }, 10*time.Second, time.Millisecond)
}

func TestTCPDenied(t *testing.T) {
	flows := make(chan Flow, 8)
	g := newGuest(t, Config{Policy: policy(t, egress.Config{}), Flows: func(f Flow) { flows <- f }})
	addr := echoServer(t)
	for _, dst := range []netip.AddrPort{
		addr, // the host
		netip.MustParseAddrPort("169.254.169.254:80"), netip.MustParseAddrPort("10.1.2.3:80"),
	} {
		_, err := g.dial(dst)
		require.Error(t, err, dst)
		f := <-flows
		require.Equal(t, dst, f.Dst)
		require.False(t, f.Verdict.Allow)
		require.NotEmpty(t, f.Err)
	}
	require.EqualValues(t, 3, g.net.Stats().Denied)
	require.Zero(t, g.net.Stats().TCPTotal)
}

// TestTCPSlowReceiver fills the way to the guest, takes a bit now and then, and
// loses nothing that TCP would not repeat.
func TestTCPSlowReceiver(t *testing.T) {
	const size = 8 << 20
	g := newGuest(t, Config{})
	c, err := g.dial(server(t, func(c net.Conn) { c.Write(make([]byte, size)) }))
	require.NoError(t, err)
	defer c.Close()
	stop := make(chan struct{})
	var refilling sync.WaitGroup
	refilling.Go(func() {
		for {
			select {
			case <-stop:
				g.link.refill(-1)
				return
			default:
				g.link.refill(4)
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	n, err := io.Copy(io.Discard, c)
	close(stop)
	refilling.Wait()
	require.NoError(t, err)
	require.EqualValues(t, size, n)
}
