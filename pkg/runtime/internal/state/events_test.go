package state

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kinds are the events' kinds in order, each with the box's name.
func kinds(events []Event) (out []string) {
	for _, e := range events {
		out = append(out, e.Kind+" "+e.Name)
	}
	return out
}

func TestEventsGoWithTheirChange(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	a, b := newBox("a"), newBox("b")
	a.Record("create", map[string]string{"image": "alpine"})
	require.NoError(t, db.Insert(ctx, a))
	b.Record("create", nil)
	require.NoError(t, db.Insert(ctx, b))

	clash := newBox("a")
	clash.Record("create", nil)
	require.ErrorIs(t, db.Insert(ctx, clash), ErrExists)
	_, err := db.Update(ctx, a.ID, func(b *Box) error { b.Record("rename", nil); b.Name = "b"; return nil })
	require.ErrorIs(t, err, ErrExists)
	_, err = db.Update(ctx, a.ID, func(b *Box) error { b.Record("start", nil); return errors.New("no") })
	require.Error(t, err)
	got, err := db.Update(ctx, a.ID, func(b *Box) error { b.Record("rename", nil); b.Name = "c"; return nil })
	require.NoError(t, err)
	require.Equal(t, "c", got.Name)
	require.NoError(t, db.Delete(ctx, b.ID, "destroy", false, nil))
	require.NoError(t, db.Delete(ctx, b.ID, "destroy", false, nil), "a second time there is nothing to tell")

	all, err := db.Events(ctx, EventFilter{}, 100)
	require.NoError(t, err)
	require.Equal(t, []string{"create a", "create b", "rename c", "destroy b"}, kinds(all))
	require.Equal(t, map[string]string{"image": "alpine"}, all[0].Attributes)
	require.Equal(t, a.ID, all[0].Box)
	require.WithinDuration(t, time.Now(), all[0].Time, time.Minute)

	for want, f := range map[string]EventFilter{
		"create a,create b,rename c,destroy b": {},
		"rename c,destroy b":                   {After: all[1].Seq},
		"create a,create b":                    {Kinds: []string{"create", "none"}},
		"create a,rename c":                    {Box: strings.ToLower(a.ID)},
		"create b,destroy b":                   {Box: b.ID},
		"rename c":                             {Box: "c"},
		"destroy b,create b":                   {Box: b.ID, Newest: true},
		"create a":                             {Until: all[0].Time, Box: "a"},
		"destroy b":                            {Since: all[3].Time, Kinds: []string{"destroy"}},
		"":                                     {Box: "no such"},
	} {
		got, err := db.Events(ctx, f, 100)
		require.NoError(t, err)
		require.Equal(t, want, strings.Join(kinds(got), ","), "%+v", f)
	}
	alike, err := db.Events(ctx, EventFilter{Box: strings.ToLower(a.ID[:6])}, 100)
	require.NoError(t, err)
	require.Len(t, alike, 4, "ids of one moment begin alike")
	two, err := db.Events(ctx, EventFilter{}, 2)
	require.NoError(t, err)
	require.Len(t, two, 2)
}

func TestEventsAreBounded(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	events := make([]Event, maxEvents)
	for i := range events {
		events[i] = Event{Time: time.Now(), Kind: "exec_start"}
	}
	require.NoError(t, db.AddEvents(ctx, nil))
	require.NoError(t, db.AddEvents(ctx, events))
	long := strings.Repeat("x", maxAttribute-1) + "ü and more" // the cut falls into a letter
	require.NoError(t, db.AddEvents(ctx, []Event{{Kind: "last", Attributes: map[string]string{"reason": long}}}))
	all, err := db.Events(ctx, EventFilter{}, 2*maxEvents)
	require.NoError(t, err)
	require.Len(t, all, maxEvents)
	require.EqualValues(t, 2, all[0].Seq, "the oldest went")
	last := all[len(all)-1]
	require.Equal(t, strings.Repeat("x", maxAttribute-1), last.Attributes["reason"])
	seq, err := db.LastEvent(ctx)
	require.NoError(t, err)
	require.Equal(t, last.Seq, seq)
}

func TestWatchSeesEveryConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	ctx, mine, other := context.Background(), open(t, path), open(t, path)
	w, err := mine.Watch(ctx)
	require.NoError(t, err)
	defer w.Close()
	seen := func() bool {
		changed, err := w.Changed(ctx)
		require.NoError(t, err)
		return changed
	}
	require.False(t, seen())
	for _, db := range []*DB{mine, other} {
		require.NoError(t, db.Insert(ctx, newBox("")))
		require.True(t, seen())
		require.False(t, seen())
	}
}
