package egress

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAskIsBounded has a function that never answers, and ignores its context.
func TestAskIsBounded(t *testing.T) {
	clock := newClock()
	release, asked := make(chan struct{}), make(chan string, 10*maxQuestions)
	p := newTestWith(t, Config{Default: Ask}, Options{
		Now: func() time.Time { return clock.now }, AskTimeout: time.Hour,
		Ask: func(_ context.Context, r Request) (Action, error) {
			asked <- r.Name
			<-release
			return Allow, nil
		},
	})
	var waiting sync.WaitGroup
	for i := range maxQuestions {
		waiting.Go(func() { require.True(t, p.Lookup(t.Context(), fmt.Sprintf("n%d.com", i)).Allow) })
	}
	for range maxQuestions {
		<-asked
	}
	v := p.Lookup(t.Context(), "onemore.com") // it does not wait, though its context would let it
	require.False(t, v.Allow)
	require.Equal(t, NoAnswer, v.Reason)
	require.Empty(t, asked)
	close(release)
	waiting.Wait()
	require.Eventually(t, func() bool { return p.Lookup(t.Context(), "onemore.com").Allow }, 30*time.Second, time.Millisecond)
}

// TestAnswersAreBounded asks about more names than are remembered.
func TestAnswersAreBounded(t *testing.T) {
	clock := newClock()
	p := newTestWith(t, Config{Default: Ask}, Options{
		Now: func() time.Time { return clock.now },
		Ask: func(_ context.Context, r Request) (Action, error) { return Allow, nil },
	})
	for i := range maxAnswers + 500 {
		require.True(t, p.Lookup(t.Context(), fmt.Sprintf("n%d.com", i)).Allow)
	}
	require.LessOrEqual(t, len(p.asking.answers), maxAnswers)
	clock.pass(defaultAskTTL) // what holds no longer goes first
	require.True(t, p.Lookup(t.Context(), "new.com").Allow)
	require.LessOrEqual(t, len(p.asking.answers), maxAnswers)
	require.NotNil(t, p.asking.answers[question{name: "new.com"}])
}

// TestAskTimesOut has questions that wait when their time is over, of a function that
// goes on all the same: the silence is remembered, and then asked about again.
func TestAskTimesOut(t *testing.T) {
	clock := newClock()
	release := make(chan struct{})
	var calls sync.WaitGroup
	p := newTestWith(t, Config{Default: Ask}, Options{
		Now: func() time.Time { return clock.now }, AskTimeout: time.Millisecond,
		Ask: func(context.Context, Request) (Action, error) {
			calls.Done()
			<-release
			return Allow, nil
		},
	})
	calls.Add(1)
	require.Equal(t, NoAnswer, p.Lookup(t.Context(), "a.com").Reason)
	require.Equal(t, NoAnswer, p.Lookup(t.Context(), "a.com").Reason, "asked again at once")
	clock.pass(silenceTTL)
	calls.Add(1)
	require.Equal(t, NoAnswer, p.Lookup(t.Context(), "a.com").Reason)
	calls.Wait()
	close(release)
}

// TestPinsUnderLoad does everything at once, for the race detector, and looks at what
// may never be.
func TestPinsUnderLoad(t *testing.T) {
	p, _ := newTest(t, Config{}, "deny evil.com", "*.a.com:443", "b.com")
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{93, 184, byte(i >> 8), byte(i)}) }
	const addrs = 300
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 3000 {
				a := addr((i*7 + w) % addrs)
				switch (i + w) % 6 {
				case 0:
					p.Pin(fmt.Sprintf("n%d.a.com", i%50), []netip.Addr{a}, time.Duration(i)*time.Second)
				case 1:
					p.Pin("b.com", []netip.Addr{a}, 0)
				case 2:
					p.Pin("evil.com", []netip.Addr{addr(addrs + i%10)}, time.Hour)
				case 3:
					release := p.Hold(a)
					p.Check(t.Context(), Flow{UDP, netip.AddrPortFrom(a, 443)})
					release()
					release()
				case 4:
					v := p.Check(t.Context(), Flow{TCP, netip.AddrPortFrom(a, 443)})
					s := p.Sniffer(Flow{TCP, netip.AddrPortFrom(a, 443)}, v)
					if v, done := s.Feed([]byte("GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n")); !done || v.Allow {
						t.Error("evil.com was let through")
					}
				case 5:
					if p.Lookup(t.Context(), "evil.com").Allow || p.Check(t.Context(), Flow{TCP, netip.AddrPortFrom(addr(addrs+i%10), 443)}).Allow {
						t.Error("evil.com is allowed")
					}
				}
			}
		})
	}
	all.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	names := 0
	for a, e := range p.pins.byAddr {
		require.Zero(t, e.holds, "%v is still held", a)
		require.NotNil(t, e.next, "%v is in no ring", a)
		names += len(e.names)
	}
	require.Equal(t, names, p.pins.count)
	ring := 0
	for e := p.pins.oldest.next; e != &p.pins.oldest; e = e.next {
		ring++
	}
	require.Len(t, p.pins.byAddr, ring)
	require.LessOrEqual(t, ring, addrs)
}

func TestDeniesName(t *testing.T) {
	p, _ := newTest(t, Config{}, "good.evil.com", "deny *.evil.com", "deny tracker.com:80", "deny *", "a.com")
	for name, want := range map[string]bool{
		"x.evil.com": true, "good.evil.com": false, "evil.com": false, "tracker.com": false, "a.com": false, "other.com": false, "\x00": false,
	} {
		require.Equal(t, want, p.DeniesName(name), name)
	}
}

// TestHostileAddressName sends a Host that is an address with a text in it.
func TestHostileAddressName(t *testing.T) {
	p, _ := newTest(t, Config{}, "a.com")
	p.pinText("a.com=93.184.216.34")
	f := flow(t, "tcp 93.184.216.34:80")
	s := p.Sniffer(f, p.Check(t.Context(), f))
	v, done := s.Feed([]byte("GET / HTTP/1.1\r\nHost: [fe80::1%\x1b[2Jevil]\r\n\r\n"))
	require.True(t, done)
	require.False(t, v.Allow)
	require.NotContains(t, v.Name, "evil")
	require.NotContains(t, v.Name, "\x1b")
}
