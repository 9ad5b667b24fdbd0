package runtime

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestImageVolumes is what becomes of the places where an image keeps data.
func TestImageVolumes(t *testing.T) {
	ctx, rt := t.Context(), newRuntime(t)
	dir := t.TempDir()
	b, err := rt.Create(ctx, BoxOptions{
		KeepOnStop: true,
		Volumes:    []VolumeSpec{{HostPath: dir, GuestPath: "/given"}, {Name: "n", GuestPath: "/above"}},
		Tmpfs:      []TmpfsSpec{{GuestPath: "/memory"}},
	}, "box")
	require.NoError(t, err)
	same, err := rt.Get(ctx, "box") // as another process has it, which knows only what the row had
	require.NoError(t, err)

	img := imageConfig{Volumes: []string{"/", "/above/data", "/data/", "//data", "/given", "/memory/", "/proc/x", "relative"}}
	opts, err := b.withImageVolumes(ctx, img)
	require.NoError(t, err)
	require.Equal(t, b.opts.Volumes, opts.Volumes[:2])
	var made []string
	for _, v := range opts.Volumes[2:] {
		require.Equal(t, VolumeSpec{Name: v.Name, GuestPath: v.GuestPath, Anonymous: true}, v)
		require.Len(t, v.Name, 64)
		made = append(made, v.GuestPath)
	}
	require.Equal(t, []string{"/above/data", "/data"}, made, "not where something is, nor where nothing can be")
	for _, handle := range []*LiteBox{b, same} { // later starts have the same
		again, err := handle.withImageVolumes(ctx, img)
		require.NoError(t, err)
		require.Equal(t, opts.Volumes, again.Volumes)
	}
	info, err := rt.GetInfo(ctx, "box")
	require.NoError(t, err)
	require.Len(t, info.Mounts, 5)
	list, err := rt.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, v := range list {
		require.Equal(t, []string{"box"}, v.Boxes)
		require.Equal(t, v.Name != "n", v.Anonymous)
	}

	// They go as all that were made for a box.
	require.NoError(t, rt.RemoveWith(ctx, "box", RemoveOptions{Volumes: true}))
	list, err = rt.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)

	// An image may want more than a box can have.
	img.Volumes = nil
	for i := range MaxVolumes {
		img.Volumes = append(img.Volumes, fmt.Sprintf("/v%02d", i))
	}
	b, err = rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{{GuestPath: "/a"}}}, "")
	require.NoError(t, err)
	opts, err = b.withImageVolumes(ctx, img)
	require.NoError(t, err)
	require.Len(t, opts.Volumes, MaxVolumes)
	again, err := b.withImageVolumes(ctx, img)
	require.NoError(t, err)
	require.Equal(t, opts.Volumes, again.Volumes)

	// And a box that is gone has none.
	require.NoError(t, rt.Remove(ctx, string(b.ID()), false))
	_, err = b.withImageVolumes(ctx, img)
	require.ErrorIs(t, err, ErrNotFound)
}
