package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefault(t *testing.T) {
	require.Nil(t, TryDefault())
	home := t.TempDir()
	require.NoError(t, InitDefault(Options{HomeDir: home}))
	rt, err := Default()
	require.NoError(t, err)
	require.Equal(t, home, rt.HomeDir())
	require.Same(t, rt, TryDefault())
	require.ErrorIs(t, InitDefault(Options{}), ErrAlreadyExists)
	require.NoError(t, rt.Close())
	require.Nil(t, TryDefault())

	t.Setenv("BOXLITE_HOME", t.TempDir())
	other, err := Default()
	require.NoError(t, err)
	require.NotSame(t, rt, other)
	require.NoError(t, other.Close())
}

func TestShutdown(t *testing.T) {
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	ctx := t.Context()
	box, err := rt.Create(ctx, BoxOptions{}, "")
	require.NoError(t, err)
	require.NoError(t, rt.Shutdown(ctx))
	require.NoError(t, rt.Shutdown(ctx), "twice")
	require.NoError(t, rt.Close())
	_, err = rt.Create(ctx, BoxOptions{}, "")
	require.ErrorIs(t, err, ErrInvalidState)
	_, err = rt.ListInfo(ctx)
	require.ErrorIs(t, err, ErrInvalidState)
	_, err = box.Info(ctx)
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorIs(t, box.Start(ctx), ErrInvalidState)
	_, err = rt.Images()
	require.ErrorIs(t, err, ErrInvalidState)
}
