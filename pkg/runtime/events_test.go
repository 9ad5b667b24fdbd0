package runtime

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plainRuntime is a runtime with a home of its own, for tests that need no guest.
func plainRuntime(t testing.TB) *Runtime {
	t.Helper()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { rt.Close() })
	return rt
}

// words are events as text, without what differs from run to run.
func words(t testing.TB, events iter.Seq2[Event, error]) (out []string) {
	t.Helper()
	for e, err := range events {
		require.NoError(t, err)
		out = append(out, word(e))
	}
	return out
}

func word(e Event) string {
	s := string(e.Kind) + " " + e.Name
	for _, k := range []string{"oldName", "signal", "exitCode", "command"} {
		if v, ok := e.Attributes[k]; ok {
			s += fmt.Sprintf(" %s=%s", k, v)
		}
	}
	return s
}

func TestEvents(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	a, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "a")
	require.NoError(t, err)
	_, err = rt.Create(ctx, BoxOptions{}, "b")
	require.NoError(t, err)
	require.NoError(t, rt.Rename(ctx, string(a.ID()), "c"))
	require.NoError(t, rt.Rename(ctx, "c", "c"), "it has that name")
	require.NoError(t, rt.Remove(ctx, "b", false))
	require.ErrorIs(t, rt.Remove(ctx, "b", false), ErrNotFound)

	require.Equal(t, []string{"create a", "create b", "rename c oldName=a", "destroy b"}, words(t, rt.Events(ctx, EventOptions{})))
	require.Equal(t, []string{"create b", "destroy b"}, words(t, rt.Events(ctx, EventOptions{Box: "b"})))
	require.Equal(t, []string{"destroy b"}, words(t, rt.Events(ctx, EventOptions{Kinds: []EventKind{EventDestroy, EventDie}})))
	require.Empty(t, words(t, rt.Events(ctx, EventOptions{Since: time.Now().Add(time.Minute)})))
	require.Empty(t, words(t, rt.Events(ctx, EventOptions{Until: time.Now().Add(-time.Minute)})))
	for e, err := range rt.Events(ctx, EventOptions{}) { // the loop may end early, and use the runtime
		require.NoError(t, err)
		require.Equal(t, a.ID(), e.BoxID)
		require.Equal(t, DefaultImage, e.Attributes["image"])
		require.Equal(t, time.UTC, e.Time.Location())
		_, err := rt.GetInfo(ctx, string(e.BoxID))
		require.NoError(t, err)
		break
	}
	for _, err := range rt.Events(ctx, EventOptions{Kinds: []EventKind{"explode"}}) {
		require.ErrorIs(t, err, ErrInvalidArgument)
		require.ErrorContains(t, err, "exec_start", "it says what there is")
	}
}

func TestEventsFollow(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	_, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "before")
	require.NoError(t, err)

	// A second runtime on the home stands for another process: it has its own connection.
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	seen := make(chan string)
	ended := make(chan error, 1)
	go func() {
		defer close(ended)
		for e, err := range rt.Events(ctx, EventOptions{Since: time.Now().Add(-time.Hour), Follow: true}) {
			if err != nil {
				ended <- err
				return
			}
			seen <- word(e)
		}
	}()
	require.Equal(t, "create before", <-seen)
	for i, from := range []*Runtime{rt, other, rt} {
		_, err := from.Create(ctx, BoxOptions{KeepOnStop: true}, fmt.Sprint("n", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("create n", i), <-seen)
	}
	require.NoError(t, rt.Close())
	require.ErrorIs(t, <-ended, ErrInvalidState, "Close ends it")

	// Until ends it as well, after what was recorded up to then; without Since the past is left out.
	until := time.Now().Add(time.Second)
	got := make(chan []string)
	go func() {
		got <- words(t, other.Events(ctx, EventOptions{Since: time.Now().Add(-time.Hour), Until: until, Follow: true}))
	}()
	require.Len(t, <-got, 4)
	require.False(t, time.Now().Before(until))
	require.Empty(t, words(t, other.Events(ctx, EventOptions{Until: time.Now(), Follow: true})))

	short, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range other.Events(short, EventOptions{Follow: true}) {
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestRename(t *testing.T) {
	ctx, rt := t.Context(), plainRuntime(t)
	a, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "a")
	require.NoError(t, err)
	_, err = rt.Create(ctx, BoxOptions{KeepOnStop: true}, "taken")
	require.NoError(t, err)

	require.ErrorIs(t, rt.Rename(ctx, "a", "taken"), ErrAlreadyExists)
	require.ErrorIs(t, rt.Rename(ctx, "nobody", "b"), ErrNotFound)
	for _, bad := range []string{"", "-x", "a b", "../a", strings.Repeat("x", 1000)} {
		require.ErrorIs(t, rt.Rename(ctx, "a", bad), ErrInvalidArgument, bad)
	}
	info, err := rt.GetInfo(ctx, "a")
	require.NoError(t, err, "nothing has changed")
	changed := info.LastUpdated

	require.NoError(t, rt.Rename(ctx, string(a.ID()), "b"))
	info, err = a.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, "b", info.Name)
	require.Equal(t, changed, info.LastUpdated, "its status did not change")
	require.Equal(t, "b", a.Name(), "the handle has looked")
	ok, err := rt.Exists(ctx, "a")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = rt.Create(ctx, BoxOptions{KeepOnStop: true}, "a")
	require.NoError(t, err, "the old name is free")
	got, err := rt.Get(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, a.ID(), got.ID())
}
