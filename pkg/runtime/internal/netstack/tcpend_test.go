package netstack

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// onTimeOf has something of a connection be due now.
func onTimeOf(f *tcpFlow, due func()) {
	f.mu.Lock()
	due()
	f.wakeAt(1)
	f.mu.Unlock()
}

// TestTCPAsksWindow has a guest close its window over what was sent, and answer each
// question: that is no reason to end.
func TestTCPAsksWindow(t *testing.T) {
	c, far := rawOpen(t)
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(c.hear().payload))
	c.window = 0 // it was dropped
	c.send(flagAck, 0, "")
	f := c.flow()
	for range 2 * maxRepeats {
		onTimeOf(f, func() { f.repeatAt = 1 })
		for s := c.hear(); s.seq != c.ack-1; s = c.hear() {
			require.Zero(t, s.flags&flagRst)
		}
		c.send(flagAck, 0, "")
	}
	c.window = 100
	c.send(flagAck, 0, "")
	for s := c.hear(); string(s.payload) != "hello"; s = c.hear() {
		require.Zero(t, s.flags&flagRst)
	}
}

// TestTCPGivesUp has a guest acknowledge nothing.
func TestTCPGivesUp(t *testing.T) {
	c, far := rawOpen(t)
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	f := c.flow()
	sent := 0
	for s := c.hear(); s.flags&flagRst == 0; s = c.hear() {
		require.Equal(t, "hello", string(s.payload))
		sent++
		onTimeOf(f, func() { f.repeatAt = 1 })
	}
	require.Equal(t, maxRepeats+1, sent)
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

// TestTCPKeepsAlive asks a guest of which nothing was heard whether it is there.
func TestTCPKeepsAlive(t *testing.T) {
	c, far := rawOpen(t)
	c.opened()
	f := c.flow()
	silent := func() { f.lastWord, f.askedAt = f.lastWord-keepIdle, f.askedAt-keepIdle }
	for range 2 * keepProbes {
		onTimeOf(f, silent)
		require.Equal(t, c.ack-1, c.hear().seq)
		c.send(flagAck, 0, "")
		require.Eventually(t, func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.asked == 0
		}, waitLong, tick)
	}
	for range keepProbes {
		onTimeOf(f, silent)
		require.Equal(t, c.ack-1, c.hear().seq)
	}
	onTimeOf(f, silent)
	require.NotZero(t, c.hear().flags&flagRst)
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

// endFull has the guest send until the host takes no more, and end. It returns how many
// bytes of it were acknowledged.
func (c *rawTCP) endFull() (total int) {
	c.h.t.Helper()
	f := c.flow()
	for held := 0; held == 0; {
		begin := c.seq
		c.say(string(make([]byte, 32<<10)))
		c.seq = c.hear().ack
		total += int(c.seq - begin)
		f.mu.Lock()
		held = f.in.n
		f.mu.Unlock()
	}
	c.send(flagAck|flagFin, 0, "")
	c.seq++
	require.Equal(c.h.t, c.seq, c.hear().ack)
	return total
}

// TestTCPGuestForgets has a guest end in order and then forget the connection, as kernels
// do after a minute, while the host has yet to take most of what was acknowledged.
func TestTCPGuestForgets(t *testing.T) {
	c, far := rawOpen(t)
	f := c.flow()
	total := c.endFull()
	onTimeOf(f, func() { f.lastWord -= 100 * keepIdle })
	require.Equal(t, c.ack-1, c.hear().seq, "it is asked")
	c.quiet() // once, however late that is
	c.send(flagRst, 0, "")
	n, err := io.Copy(io.Discard, far)
	require.NoError(t, err)
	require.EqualValues(t, total, n)
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 && c.h.net.tcp.memory.used.Load() == 0 }, waitLong, tick)
}

// TestTCPHostForgets is the same with a host that never takes the rest.
func TestTCPHostForgets(t *testing.T) {
	c, _ := rawOpen(t)
	f := c.flow()
	c.endFull()
	c.send(flagRst, 0, "")
	f.mu.Lock()
	require.True(t, f.gone)
	f.mu.Unlock()
	c.send(flagAck, 0, "x")
	require.Equal(t, flagRst, c.hear().flags, "it knows of nothing")
	c.send(flagSyn, 0, "")
	c.quiet() // another can begin later
	onTimeOf(f, func() { f.progress -= orphanTime })
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
}

// TestTCPBothForget has the far end reset what the guest has forgotten.
func TestTCPBothForget(t *testing.T) {
	c, far := rawOpen(t)
	f := c.flow()
	c.endFull()
	c.send(flagRst, 0, "")
	f.mu.Lock()
	require.True(t, f.gone)
	f.mu.Unlock()
	far.SetLinger(0)
	far.Close()
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
}

// TestTCPResetAfterEnd has the far end end, and reset later.
func TestTCPResetAfterEnd(t *testing.T) {
	c, far := rawOpen(t)
	require.NoError(t, far.CloseWrite())
	require.NotZero(t, c.hear().flags&flagFin)
	c.ack++
	c.send(flagAck, 0, "")
	require.Eventually(t, func() bool {
		f := c.flow()
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.acked
	}, waitLong, tick)
	far.SetLinger(0)
	far.Close()
	require.NotZero(t, c.hear().flags&flagRst)
}

// TestTCPResetLosesNothing has the far end reset when the guest has yet to take what it said.
func TestTCPResetLosesNothing(t *testing.T) {
	for _, how := range []string{"read", "write"} {
		t.Run(how, func(t *testing.T) {
			c, far := rawOpen(t)
			c.window = 0
			c.send(flagAck, 0, "")
			f := c.flow()
			f.mu.Lock() // the events of all that follows come together
			_, err := far.Write([]byte("413 too large"))
			require.NoError(t, err)
			far.SetLinger(0)
			far.Close()
			if how == "write" {
				var took int
				require.Eventually(t, func() bool { // until the reset has come
					took, err = f.deliver([][]byte{[]byte("more")}, 4)
					require.NoError(t, err)
					return f.broken != nil
				}, waitLong, tick)
				require.Equal(t, 4, took)
			}
			f.mu.Unlock()
			for range 2 {
				onTimeOf(f, func() { f.repeatAt = 1 })
				require.Equal(t, c.ack-1, c.hear().seq, "asked for its window")
			}
			c.window = 100
			c.send(flagAck, 0, "")
			s := c.hear()
			for ; len(s.payload) == 0; s = c.hear() {
				require.Zero(t, s.flags&flagRst)
			}
			require.Equal(t, "413 too large", string(s.payload))
			require.Zero(t, s.flags&flagFin)
			c.ack += uint32(len(s.payload))
			c.send(flagAck, 0, "")
			require.NotZero(t, c.hear().flags&flagRst)
		})
	}
}

// TestTCPUrgent has the far end mark a byte as urgent, behind which more comes.
func TestTCPUrgent(t *testing.T) {
	c, far := rawOpen(t)
	raw, err := far.SyscallConn()
	require.NoError(t, err)
	f := c.flow()
	f.mu.Lock() // the card's goroutine finds all of it
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.Send(int(fd), []byte("abc"), 0))
		require.NoError(t, unix.Send(int(fd), []byte("d"), unix.MSG_OOB))
		require.NoError(t, unix.Send(int(fd), []byte("efg"), 0))
	}))
	f.mu.Unlock()
	got := ""
	for got != "abcdefg" {
		s := c.hear()
		got += string(s.payload)
		c.ack += uint32(len(s.payload))
		c.send(flagAck, 0, "")
	}
}

// TestTCPNothingAfterReset owes an acknowledgement when the connection ends.
func TestTCPNothingAfterReset(t *testing.T) {
	c, _ := rawOpen(t)
	c.opened()
	f := c.flow()
	f.take(0, &segment{seq: c.seq, ack: c.ack, flags: flagAck, window: 65535, shift: noScale}, [][]byte{[]byte("x")})
	f.fail(unix.ECONNRESET)
	c.h.bell.Ring()
	require.NotZero(t, c.hear().flags&flagRst)
	c.quiet()
}

// TestTCPEventOfAnother has an event come that is not of this socket: it is no connection.
func TestTCPEventOfAnother(t *testing.T) {
	h := newHostile(t, Config{})
	l, err := newSocket(unix.AF_INET, unix.SOCK_STREAM)
	require.NoError(t, err)
	defer unix.Close(l)
	require.NoError(t, unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(l, 0))
	local, err := unix.Getsockname(l)
	require.NoError(t, err)
	for range 3 { // until no more fit in the queue, and further ones wait
		fd, err := newSocket(unix.AF_INET, unix.SOCK_STREAM)
		require.NoError(t, err)
		defer unix.Close(fd)
		if err := unix.Connect(fd, local); err != nil {
			require.ErrorIs(t, err, unix.EINPROGRESS)
		}
	}
	to := netip.AddrPortFrom(Host4, addrPort(local).Port())
	c := h.raw(4000, to)
	c.send(flagSyn, 0, "")
	c.quiet()
	c.flow().serve(writable)
	c.quiet()
}

// asking is a policy that asks somebody who never answers.
func asking(t *testing.T) *egress.Policy {
	p, err := egress.New(egress.Config{Default: egress.Ask}, egress.Options{
		HostName: HostName, HostAddrs: []netip.Addr{Host4, Host6}, Subnets: []netip.Prefix{Subnet4, Subnet6},
		Ask: func(ctx context.Context, _ egress.Request) (egress.Action, error) {
			<-ctx.Done()
			return egress.Deny, ctx.Err()
		},
	})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// TestHostile36Asked begins connections that somebody is asked about, and resets each.
func TestHostile36Asked(t *testing.T) {
	h := newHostile(t, Config{Policy: asking(t)})
	to := netip.MustParseAddrPort("93.184.216.34:443")
	before := measure(t)
	for i := range many(5000, 50_000) {
		port := uint16(1024 + i)
		h.send(tcpPacket(port, to, header.TCPFlagSyn, uint32(i), 0, 65535))
		h.send(tcpPacket(port, to, header.TCPFlagRst, uint32(i)+1, 0, 0))
	}
	require.EqualValues(t, h.net.limit.opening, h.net.tcp.opening.Load())
	requireWithin(t, before, usage{heap: 16 << 20, goroutines: h.net.limit.opening + 100, fds: 10})
	h.reset()
	require.NoError(t, h.net.Close())
	require.Zero(t, h.net.tcp.opening.Load())
}

// TestHostileCallRST resets calls that it does not know of yet.
func TestHostileCallRST(t *testing.T) {
	h := newHostile(t, Config{})
	table := h.net.tcp
	stop := make(chan struct{})
	var resets sync.WaitGroup
	resets.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			table.mu.Lock()
			n := table.next
			table.mu.Unlock()
			for d := range uint16(3) {
				table.take(anyPair, flowKey{netip.AddrPortFrom(Guest4, 80), netip.AddrPortFrom(Gateway4, n-1+d)}, &segment{flags: flagRst, shift: noScale}, nil)
			}
		}
	})
	for range many(500, 5000) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		table.call(80, fds[0], netip.MustParseAddrPort("192.0.2.1:9"))
		unix.Close(fds[1])
	}
	close(stop)
	resets.Wait()
	h.reset()
	require.NoError(t, h.net.Close())
	require.Zero(t, table.open.Load())
	require.Zero(t, table.calling.Load())
}

// TestCallsLeaveRoom has many call a guest that does not answer: it can call others.
func TestCallsLeaveRoom(t *testing.T) {
	h := newHostile(t, Config{})
	h.net.tcp.repeat = time.Hour
	to, _ := scripted(t)
	c := h.raw(4000, to)
	for range h.net.limit.opening + 10 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		h.net.tcp.call(80, fds[0], netip.MustParseAddrPort("192.0.2.1:9"))
		unix.Close(fds[1])
	}
	require.EqualValues(t, h.net.limit.opening, h.net.tcp.calling.Load())
	c.send(flagSyn, 0, "")
	for c.hear().flags != flagSyn|flagAck {
	}
}

// TestTCPSlowSpeaker begins a request that is to be judged, and does not go on.
func TestTCPSlowSpeaker(t *testing.T) {
	p := policy(t, egress.Config{AllowHost: true, Default: egress.Allow, Rules: []egress.Rule{mustAllow(t, "good.example")}})
	h := newHostile(t, Config{Policy: p})
	f := newTCPFlow(h.net.tcp, flowKey{netip.AddrPortFrom(Guest4, 1), netip.AddrPortFrom(Host4, 2)})
	require.True(t, h.net.tcp.add(f))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fds[1])
	f.mu.Lock()
	f.state, f.fd = tcpAnswered, fds[0]
	f.greeted(&segment{seq: 99, flags: flagSyn, window: 65535, mss: 1460, shift: noScale})
	f.answer()
	f.sniff = p.Sniffer(egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort("93.184.216.34:80")}, egress.Verdict{Allow: true, NeedsName: true})
	f.mu.Unlock()
	f.take(anyPair, &segment{seq: 100, ack: f.top, flags: flagAck, window: 65535, shift: noScale}, [][]byte{[]byte("GET / HT")})
	f.mu.Lock()
	require.Equal(t, tcpOpen, f.state)
	require.EqualValues(t, egress.SniffLimit-8, f.room())
	require.InDelta(t, float64(f.table.now()+sniffTime), float64(f.sniffEnd), float64(time.Minute))
	f.mu.Unlock()
	onTimeOf(f, func() { f.sniffEnd = 1 })
	require.Eventually(t, func() bool { return h.net.tcp.open.Load() == 0 }, waitLong, tick)
	require.EqualValues(t, 1, h.net.Stats().Denied)
}

// TestHostileEndlessGreeting sends a greeting that never says for whom it is: no more of it
// is held than is looked at, and then it is refused.
func TestHostileEndlessGreeting(t *testing.T) {
	p := policy(t, egress.Config{AllowHost: true, Default: egress.Allow, Rules: []egress.Rule{mustAllow(t, "good.example")}})
	h := newHostile(t, Config{Policy: p})
	to, conns := scripted(t)
	c := h.raw(4000, to)
	c.open()
	far := <-conns
	defer far.Close()
	c.opened()
	f := c.flow()
	f.mu.Lock()
	f.sniff = p.Sniffer(egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort("93.184.216.34:80")}, egress.Verdict{Allow: true, NeedsName: true})
	f.mu.Unlock()
	c.say("GET /" + string(bytes.Repeat([]byte("x"), egress.SniffLimit-10)))
	require.Equal(t, c.seq, c.hear().ack)
	f.mu.Lock()
	require.Len(t, f.sniff.Bytes(), egress.SniffLimit-5)
	f.mu.Unlock()
	c.say(string(bytes.Repeat([]byte("x"), 30_000)))
	require.NotZero(t, c.hear().flags&flagRst)
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	require.EqualValues(t, 1, h.net.Stats().Denied)
}
