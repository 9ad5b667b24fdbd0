package runtime

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func newRuntime(t testing.TB) *Runtime {
	t.Helper()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Close()) })
	return rt
}

func kept() BoxOptions {
	return BoxOptions{KeepOnStop: true, Labels: map[string]string{"a": "b"}}
}

// TestLifecycle is the part of a box's life that needs no guest.
func TestLifecycle(t *testing.T) {
	rt, ctx := newRuntime(t), t.Context()
	box, err := rt.Create(ctx, kept(), "one")
	require.NoError(t, err)
	require.Equal(t, "one", box.Name())
	for _, key := range []string{"one", string(box.ID()), strings.ToLower(string(box.ID())[:20])} {
		i, err := rt.GetInfo(ctx, key)
		require.NoError(t, err, key)
		require.Equal(t, box.ID(), i.ID)
		require.Equal(t, StatusConfigured, i.Status)
		require.Equal(t, DefaultImage, i.Image)
		require.Equal(t, DefaultCPUs, i.CPUs)
		require.Equal(t, DefaultMemoryMiB, i.MemoryMiB)
		require.Equal(t, map[string]string{"a": "b"}, i.Labels)
		require.Zero(t, i.PID)
		there, err := rt.Exists(ctx, key)
		require.NoError(t, err)
		require.True(t, there)
	}
	_, err = rt.Create(ctx, kept(), "one")
	require.ErrorIs(t, err, ErrAlreadyExists)
	other, err := rt.Create(ctx, kept(), "two")
	require.NoError(t, err)
	require.ErrorIs(t, rt.Rename(ctx, "two", "one"), ErrAlreadyExists)
	require.ErrorIs(t, rt.Rename(ctx, "two", "not a name"), ErrInvalidArgument)
	require.ErrorIs(t, rt.Rename(ctx, "none", "three"), ErrNotFound)
	require.NoError(t, rt.Rename(ctx, "two", "two"), "its own name")
	require.NoError(t, rt.Rename(ctx, "two", "three"))
	got, err := rt.Get(ctx, "three")
	require.NoError(t, err)
	require.Equal(t, other.ID(), got.ID())
	there, err := rt.Exists(ctx, "two")
	require.NoError(t, err)
	require.False(t, there)

	list, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, other.ID(), list[0].ID, "newest first")
	require.NoError(t, box.Stop(ctx), "of a box that does not run")
	require.NoError(t, rt.Remove(ctx, "one", false))
	require.ErrorIs(t, rt.Remove(ctx, "one", false), ErrNotFound)

	var kinds []string
	for e, err := range rt.Events(ctx, EventOptions{}) {
		require.NoError(t, err)
		kinds = append(kinds, string(e.Kind)+" "+e.Name)
	}
	require.Equal(t, []string{"create one", "create two", "rename three", "destroy one"}, kinds)
	for e, err := range rt.Events(ctx, EventOptions{Box: string(box.ID()), Kinds: []EventKind{EventDestroy}}) {
		require.NoError(t, err)
		require.Equal(t, box.ID(), e.BoxID)
		require.Equal(t, EventDestroy, e.Kind)
	}
	m, err := rt.Metrics(ctx)
	require.NoError(t, err)
	require.Equal(t, RuntimeMetrics{BoxesCreatedTotal: 2}, m)
}

func TestBoxState(t *testing.T) {
	rt, ctx := newRuntime(t), t.Context()
	box, err := rt.Create(ctx, kept(), "")
	require.NoError(t, err)
	s, err := box.State(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, s.Status)
	require.Zero(t, s.PID)
	require.True(t, s.ContainerID.IsValid())
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, i.LastUpdated, s.LastUpdated)
	again, err := rt.Get(ctx, string(box.ID()))
	require.NoError(t, err)
	other, err := again.State(ctx)
	require.NoError(t, err)
	require.Equal(t, s, other, "the same for every handle")
	require.NoError(t, rt.Remove(ctx, string(box.ID()), false))
	_, err = box.State(ctx)
	require.ErrorIs(t, err, ErrNotFound)
}
