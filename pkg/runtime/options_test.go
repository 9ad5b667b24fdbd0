package runtime

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/stretchr/testify/require"
)

// TestBoxOptionsDefaults is the zero value as a box has it.
func TestBoxOptionsDefaults(t *testing.T) {
	var o BoxOptions
	require.NoError(t, o.fill())
	require.Equal(t, 2, o.CPUs)
	require.Equal(t, 512, o.MemoryMiB)
	require.Equal(t, Image("alpine:latest"), o.Rootfs)
	require.False(t, o.KeepOnStop, "boxes are removed when they stop")
	require.False(t, o.Detach, "boxes end with their caller")
	require.Empty(t, o.Env)
	require.Empty(t, o.WorkingDir)
	require.Positive(t, o.DiskSizeGB)
	again := o
	require.NoError(t, again.fill())
	require.Equal(t, o, again)
}

func TestBoxOptionsRefused(t *testing.T) {
	rt := plainRuntime(t)
	for name, o := range map[string]BoxOptions{
		"negative CPUs":        {CPUs: -1},
		"too many CPUs":        {CPUs: machine.MaxCPUs + 1},
		"too little memory":    {MemoryMiB: 1},
		"too much memory":      {MemoryMiB: machine.MaxMemoryMiB + 1},
		"negative disk":        {DiskSizeGB: -1},
		"image and folder":     {Rootfs: RootfsSpec{Image: "a", Path: "/b"}},
		"relative directory":   {WorkingDir: "here"},
		"two groups":           {User: "a:b:c"},
		"NUL in a user":        {User: "a\x00"},
		"NUL in a directory":   {WorkingDir: "/a\x00b"},
		"variable, no name":    {Env: []EnvVar{{"", "x"}}},
		"variable, = in name":  {Env: []EnvVar{{"a=b", "x"}}},
		"variable, NUL":        {Env: []EnvVar{{"a", "\x00"}}},
		"NUL in an argument":   {Main: &MainCommand{Args: []string{"\x00"}}},
		"empty program's name": {Main: &MainCommand{Entrypoint: []string{}, Args: []string{""}}},
	} {
		_, err := rt.Create(t.Context(), o, "")
		require.ErrorIs(t, err, ErrInvalidArgument, name)
	}
	list, err := rt.ListInfo(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestHomeDir(t *testing.T) {
	home := filepath.Join(t.TempDir(), "a", "b")
	t.Setenv("BOXLITE_HOME", home)
	rt, err := NewWithDefaults()
	require.NoError(t, err)
	require.Equal(t, home, rt.HomeDir())
	require.NoError(t, rt.Close())
	t.Setenv("BOXLITE_HOME", "")
	t.Setenv("HOME", filepath.Dir(home))
	rt, err = NewWithDefaults()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(filepath.Dir(home), ".boxlite"), rt.HomeDir())
	require.NoError(t, rt.Close())
	rt, err = New(Options{HomeDir: home})
	require.NoError(t, err, "one that is there")
	require.Equal(t, home, rt.HomeDir())
	require.NoError(t, rt.Close())
}

// TestImageRegistries looks where a box's image without a registry is asked for, and
// in which order.
func TestImageRegistries(t *testing.T) {
	first, second := newLoopback(t), newLoopback(t)
	pushImage(t, nil, second, "team/tool", "text")
	rt, err := New(Options{HomeDir: t.TempDir(), ImageRegistries: []string{first.host + "/team", second.host + "/team"}})
	require.NoError(t, err)
	defer rt.Close()
	box := createBox(t, rt, "tool", "")
	require.NoError(t, box.Pull(t.Context()))
	none := createBox(t, rt, "none", "")
	err = none.Pull(t.Context())
	require.ErrorIs(t, err, ErrImage)
	text := err.Error()
	require.Contains(t, text, first.host)
	require.Contains(t, text, second.host)
	require.Less(t, strings.Index(text, first.host), strings.Index(text, second.host))
}

// TestCreateIsLazy makes a box without an image, a kernel or a hypervisor, and looks
// at all that is known of it.
func TestCreateIsLazy(t *testing.T) {
	ctx, rt, before := t.Context(), plainRuntime(t), time.Now().Add(-time.Second)
	opts := BoxOptions{
		CPUs: 3, MemoryMiB: 100, Rootfs: Image("example.invalid/none:1"), KeepOnStop: true,
		Labels: map[string]string{"team": "red", "empty": ""},
	}
	box, err := rt.Create(ctx, opts, "lazy")
	require.NoError(t, err)
	require.Equal(t, "lazy", box.Name())
	nameless, err := rt.Create(ctx, BoxOptions{KeepOnStop: true}, "")
	require.NoError(t, err)
	require.Empty(t, nameless.Name())

	list, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	i := list[1]
	require.Equal(t, nameless.ID(), list[0].ID, "newest first")
	require.Equal(t, box.ID(), i.ID)
	require.Equal(t, StatusConfigured, i.Status)
	require.Equal(t, "lazy", i.Name)
	require.Equal(t, "example.invalid/none:1", i.Image)
	require.Equal(t, 3, i.CPUs)
	require.Equal(t, 100, i.MemoryMiB)
	require.Equal(t, opts.Labels, i.Labels)
	require.Zero(t, i.PID)
	require.Nil(t, i.ExitCode)
	require.WithinRange(t, i.CreatedAt, before, time.Now())
	require.Equal(t, time.UTC, i.CreatedAt.Location())
	require.Equal(t, i.CreatedAt, i.LastUpdated)

	for _, key := range []string{"lazy", string(box.ID()), strings.ToLower(string(box.ID()))} {
		got, err := rt.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, box.ID(), got.ID())
		same, err := rt.GetInfo(ctx, key)
		require.NoError(t, err)
		require.Equal(t, i, same)
		ok, err := rt.Exists(ctx, key)
		require.NoError(t, err)
		require.True(t, ok)
	}
	ok, err := rt.Exists(ctx, "other")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = rt.GetInfo(ctx, "other")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = rt.Create(ctx, opts, "lazy")
	require.ErrorIs(t, err, ErrAlreadyExists)
	require.NoError(t, box.Stop(ctx), "it does not run: nothing to do")
	require.NoError(t, rt.Remove(ctx, "lazy", false))
	require.ErrorIs(t, rt.Remove(ctx, "lazy", true), ErrNotFound)
}
