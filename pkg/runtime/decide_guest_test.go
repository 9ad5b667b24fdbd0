package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asked collects what callbacks were asked.
type asked struct {
	mu   sync.Mutex
	list []Destination
}

func (a *asked) add(d Destination) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, d)
}

func (a *asked) texts() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.list {
		out = append(out, d.String())
	}
	return out
}

// knock has a box try TCP ports, as "ADDRESS PORT", and look names up.
func knock(t *testing.T, b *LiteBox, what ...string) {
	t.Helper()
	script := ""
	for _, s := range what {
		if strings.Contains(s, " ") {
			script += "nc -w 30 " + s + " </dev/null\n"
		} else {
			script += "nslookup " + s + "\n"
		}
	}
	_, errs, res := output(t, b, sh(script+"exit 0"))
	require.Zero(t, res.ExitCode, errs)
}

// TestGuestNetworkDecide has a callback decide for a real kernel, one that fails in
// every way, one of another runtime, and then none.
func TestGuestNetworkDecide(t *testing.T) {
	ctx := testContext(t)
	rt := newGuestRuntime(t)
	var first, second asked
	opts := smallBox(t)
	opts.Network.Deny = []string{"denied.example"}
	opts.Network.DecideTimeout = time.Second
	opts.Network.Decide = func(ctx context.Context, d Destination) (bool, error) {
		first.add(d)
		switch d.Addr.Port() {
		case 81:
			panic("a bug of the caller's")
		case 82:
			return true, errors.New("a failure of the caller's")
		case 83:
			<-ctx.Done()
			return true, nil // too late
		}
		return d.Addr.Port() == 443, nil
	}
	b, err := rt.Create(ctx, opts, "decide")
	require.NoError(t, err)
	t.Cleanup(func() { b.Stop(ctx) })
	handle, err := rt.Get(ctx, "decide")
	require.NoError(t, err)

	knock(t, handle, "192.0.2.1 443", "192.0.2.1 80", "192.0.2.1 81", "192.0.2.1 82", "192.0.2.1 83", "192.0.2.1 80", "unknown.example", "denied.example")
	texts := first.texts()
	for _, want := range []string{
		"tcp to 192.0.2.1:443", "tcp to 192.0.2.1:80", "tcp to 192.0.2.1:81", "tcp to 192.0.2.1:82", "tcp to 192.0.2.1:83", "unknown.example",
	} {
		require.Contains(t, texts, want)
	}
	count := map[string]int{}
	for _, s := range texts {
		count[s]++
	}
	require.Equal(t, 1, count["tcp to 192.0.2.1:80"], "answers are remembered")
	require.NotContains(t, texts, "denied.example", "a rule knows it")
	require.Equal(t, b.ID(), first.list[0].Box)

	// Another program takes over, and leaves.
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	elsewhere, err := other.Get(ctx, "decide")
	require.NoError(t, err)
	require.Nil(t, elsewhere.Options().Network.Decide, "callbacks are not stored")
	deciding, leave := context.WithCancel(ctx)
	defer leave()
	ended := make(chan error, 1)
	go func() {
		ended <- elsewhere.Decide(deciding, func(_ context.Context, d Destination) (bool, error) {
			second.add(d)
			return false, nil
		})
	}()
	for port := 1000; len(second.texts()) == 0; port++ { // until it has taken over
		knock(t, b, fmt.Sprintf("192.0.2.2 %d", port))
	}
	require.Contains(t, second.texts()[0], "tcp to 192.0.2.2:")
	leave()
	require.ErrorIs(t, <-ended, context.Canceled)
	knock(t, b, "192.0.2.3 443")
	require.NotContains(t, append(first.texts(), second.texts()...), "tcp to 192.0.2.3:443")

	want := map[string]string{ // every decision, in the log
		"tcp 192.0.2.1:443": "allow answer", "tcp 192.0.2.1:80": "deny answer", "tcp 192.0.2.1:81": "deny no answer",
		"tcp 192.0.2.1:82": "deny no answer", "tcp 192.0.2.1:83": "deny no answer", "tcp 192.0.2.3:443": "deny no answer",
		"dns unknown.example": "deny answer", "dns denied.example": "deny rule",
	}
	require.Eventually(t, func() bool {
		got := map[string]string{}
		for f, err := range b.Flows(ctx, LogOptions{}) {
			require.NoError(t, err)
			to := f.Name
			if f.To.IsValid() {
				to = f.To.String()
			}
			got[string(f.Protocol)+" "+to] = f.Action + " " + f.Reason
		}
		for k, v := range want {
			if got[k] != v {
				return false
			}
		}
		return true
	}, time.Minute, 100*time.Millisecond)

	plain, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	require.ErrorIs(t, plain.Decide(ctx, opts.Network.Decide), ErrInvalidState)
	require.NoError(t, rt.Remove(ctx, string(plain.ID()), true))
	require.NoError(t, b.Stop(ctx))
	require.ErrorIs(t, elsewhere.Decide(ctx, opts.Network.Decide), ErrNotFound)
}
