package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRename(t *testing.T) {
	ctx := t.Context()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	defer rt.Close()
	opts := BoxOptions{KeepOnStop: true, Labels: map[string]string{"a": "b"}}
	one, err := rt.Create(ctx, opts, "one")
	require.NoError(t, err)
	two, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	require.NoError(t, rt.Rename(ctx, string(two.ID()), "two"))
	require.ErrorIs(t, rt.Rename(ctx, "two", "one"), ErrAlreadyExists)
	require.ErrorIs(t, rt.Rename(ctx, "three", "four"), ErrNotFound)
	require.ErrorIs(t, rt.Rename(ctx, "two", "../x"), ErrInvalidArgument)
	require.ErrorIs(t, rt.Rename(ctx, "two", ""), ErrInvalidArgument)
	require.NoError(t, rt.Rename(ctx, "one", "uno"))
	require.NoError(t, rt.Rename(ctx, "two", "one"), "a name that has become free")
	i, err := rt.GetInfo(ctx, "one")
	require.NoError(t, err)
	require.Equal(t, two.ID(), i.ID)
	i, err = rt.GetInfo(ctx, "uno")
	require.NoError(t, err)
	require.Equal(t, one.ID(), i.ID)
}

// TestOptions looks at what a handle tells of its box's options, and that nobody
// changes them through it.
func TestOptions(t *testing.T) {
	ctx := t.Context()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	defer rt.Close()
	box, err := rt.Create(ctx, BoxOptions{
		Env: []EnvVar{{"A", "1"}}, Labels: map[string]string{"a": "b"}, KeepOnStop: true, Detach: true,
		Main: &MainCommand{Args: []string{"true"}, Entrypoint: []string{}},
	}, "x")
	require.NoError(t, err)
	again, err := rt.Get(ctx, "x")
	require.NoError(t, err)
	for _, b := range []*LiteBox{box, again} {
		o := b.Options()
		require.Equal(t, DefaultCPUs, o.CPUs)
		require.Equal(t, DefaultImage, o.Rootfs.Image)
		require.Equal(t, []string{}, o.Main.Entrypoint, "none is not the image's")
		o.Env[0].Value, o.Labels["a"], o.Main.Args[0] = "2", "c", "false"
		kept := b.Options()
		require.Equal(t, "1", kept.Env[0].Value)
		require.Equal(t, "b", kept.Labels["a"])
		require.Equal(t, "true", kept.Main.Args[0])
	}
}
