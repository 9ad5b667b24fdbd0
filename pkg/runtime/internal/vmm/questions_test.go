package vmm

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeNetwork is a box's network of which only questions are there.
type fakeNetwork struct {
	boxNetwork
	q *questions
}

func (n fakeNetwork) decide(ctx context.Context, conn net.Conn) error { return n.q.serve(ctx, conn) }

func askingBox(t *testing.T, expected bool) (*fakeBox, *questions) {
	q := newQuestions(expected)
	return newFakeBox(t, Main{}, func(b *fakeBox) { b.network = fakeNetwork{q: q} }), q
}

// client decides for a box until leave, or the end of the test; ended has why.
func client(t *testing.T, b *fakeBox, decide func(context.Context, egress.Request) egress.Action) (leave func(), ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	end := make(chan error, 1)
	go func() { end <- Decide(ctx, b.dir, decide) }()
	return cancel, end
}

// waitLong is only a guard.
const waitLong = 30 * time.Second

func (q *questions) has(t *testing.T, there bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.client != nil == there
	}, waitLong, time.Millisecond)
}

// patient is the context of a question that has all the time in the world.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func allowAll(context.Context, egress.Request) egress.Action { return egress.Allow }

var someFlow = egress.Request{Name: "example.com", Flow: egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort("192.0.2.1:443")}}

func TestDecideWithoutClient(t *testing.T) {
	_, q := askingBox(t, false)
	a, err := q.ask(t.Context(), someFlow) // ends, though its context does not
	require.ErrorIs(t, err, errNoDecider)
	require.NotEqual(t, egress.Allow, a)
}

func TestDecide(t *testing.T) {
	b, q := askingBox(t, true)
	ctx := patient(t)
	type result struct {
		a   egress.Action
		err error
	}
	early := make(chan result, 1)
	go func() { // before the client is there
		a, err := q.ask(ctx, someFlow)
		early <- result{a, err}
	}()
	leave, ended := client(t, b, func(ctx context.Context, r egress.Request) egress.Action {
		end, ok := ctx.Deadline()
		assert.True(t, ok)
		assert.Greater(t, time.Until(end), time.Minute, "what the policy grants")
		if r == someFlow {
			return egress.Allow
		}
		return egress.Deny
	})
	require.Equal(t, result{a: egress.Allow}, <-early)
	a, err := q.ask(ctx, egress.Request{Name: "other.example"})
	require.NoError(t, err)
	require.Equal(t, egress.Deny, a)
	leave()
	require.NoError(t, <-ended)
	q.has(t, false)
	_, err = q.ask(ctx, someFlow)
	require.ErrorIs(t, err, errNoDecider, "nobody is waited for a second time")
}

// TestDecideClientLeaves has the client go while it thinks, and another one come.
func TestDecideClientLeaves(t *testing.T) {
	b, q := askingBox(t, false)
	asked := make(chan struct{}, 8)
	think := func(ctx context.Context, _ egress.Request) egress.Action {
		asked <- struct{}{}
		<-ctx.Done()
		return egress.Allow // too late
	}
	leave, ended := client(t, b, think)
	q.has(t, true)
	answers := make(chan error, 1)
	ctx := patient(t)
	go func() {
		_, err := q.ask(ctx, someFlow)
		answers <- err
	}()
	<-asked
	leave()
	require.NoError(t, <-ended)
	require.Error(t, <-answers) // whether it said so or was just gone

	_, first := client(t, b, think)
	q.has(t, true)
	go func() {
		a, err := q.ask(ctx, someFlow)
		assert.Equal(t, egress.Allow, a)
		answers <- err
	}()
	<-asked
	client(t, b, allowAll)
	require.NoError(t, <-answers, "its question goes to who replaced it")
	require.ErrorIs(t, <-first, ErrReplaced)
	a, err := q.ask(ctx, someFlow)
	require.NoError(t, err)
	require.Equal(t, egress.Allow, a)
}

// TestDecideIsBounded has a callback that never returns.
func TestDecideIsBounded(t *testing.T) {
	b, q := askingBox(t, false)
	release := make(chan struct{})
	entered := make(chan struct{}, maxDeciding)
	client(t, b, func(context.Context, egress.Request) egress.Action {
		entered <- struct{}{}
		<-release
		return egress.Allow
	})
	q.has(t, true)
	ctx, cancel := context.WithCancel(patient(t))
	ended := make(chan struct{}, maxDeciding)
	for range maxDeciding {
		go func() {
			_, _ = q.ask(ctx, someFlow)
			ended <- struct{}{}
		}()
		<-entered
	}
	a, err := q.ask(patient(t), someFlow)
	require.NoError(t, err)
	require.Equal(t, egress.Deny, a)
	cancel()
	for range maxDeciding {
		<-ended
	}
	close(release)
	require.Eventually(t, func() bool { // and there is room again
		a, err := q.ask(patient(t), someFlow)
		return err == nil && a == egress.Allow
	}, waitLong, time.Millisecond)
}

// TestHostileDecider answers what was not asked, and then nonsense.
func TestHostileDecider(t *testing.T) {
	b, q := askingBox(t, false)
	conn, _, err := ask(t.Context(), b.dir, request{Op: opDecide})
	require.NoError(t, err)
	defer conn.Close()
	q.has(t, true)
	require.NoError(t, writeFrame(conn, answer{ID: 7, Action: egress.Allow}))
	answers := make(chan egress.Action, 1)
	go func() {
		a, err := q.ask(patient(t), someFlow)
		assert.NoError(t, err)
		answers <- a
	}()
	var question Question
	require.NoError(t, readFrame(conn, &question))
	require.NoError(t, writeFrame(conn, answer{ID: question.ID + 1, Action: egress.Allow}))
	require.NoError(t, writeFrame(conn, answer{ID: question.ID, Action: egress.Deny}))
	require.NoError(t, writeFrame(conn, answer{ID: question.ID, Action: egress.Allow}), "twice")
	require.Equal(t, egress.Deny, <-answers)
	_, err = conn.Write([]byte("\x05\x00\x00\x00{]}]{"))
	require.NoError(t, err)
	q.has(t, false)
	_, err = q.ask(t.Context(), someFlow)
	require.ErrorIs(t, err, errNoDecider)
}

// TestFlowLogLookups has names in the log as far as no flow shows them.
func TestFlowLogLookups(t *testing.T) {
	path := filepath.Join(t.TempDir(), FlowName)
	l, err := openFlowLog(path)
	require.NoError(t, err)
	for _, d := range []egress.Decision{
		{Kind: egress.KindLookup, Name: "denied", Action: egress.Deny, Reason: egress.ByRule, Rule: "deny denied"},
		{Kind: egress.KindLookup, Name: "allowed", Action: egress.Allow, Reason: egress.ByRule},
		{Kind: egress.KindLookup, Name: "asked", Action: egress.Allow, Reason: egress.ByAnswer},
		{Kind: egress.KindLookup, Name: "unanswered", Action: egress.Deny, Reason: egress.NoAnswer},
		{Kind: egress.KindFlow, Name: "flow", Action: egress.Deny},
		{Kind: egress.KindFirst, Name: "first", Action: egress.Deny},
	} {
		l.addLookup(d)
	}
	require.NoError(t, l.close())
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var names []string
	for lines := json.NewDecoder(f); lines.More(); {
		var e FlowEntry
		require.NoError(t, lines.Decode(&e))
		require.Equal(t, "dns", e.Protocol)
		names = append(names, e.Action+" "+e.Name)
	}
	require.Equal(t, []string{"deny denied", "allow asked", "deny unanswered"}, names)
}
