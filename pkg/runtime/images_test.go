package runtime

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/stretchr/testify/require"
)

// pushImage puts an image with a file of this text into a registry.
func pushImage(t testing.TB, rt *Runtime, reg *loopback, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644))
	store, err := oci.Open(filepath.Join(t.TempDir(), "images"), oci.Options{})
	require.NoError(t, err)
	img, err := store.Pull(t.Context(), "dir:"+dir, oci.PullOptions{})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, store.Save(t.Context(), &b, []string{string(img.Digest)}, oci.SaveOptions{}))
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(file, b.Bytes(), 0o600))
	_, err = store.Push(t.Context(), "oci-archive:"+file, reg.host+"/"+name, nil)
	require.NoError(t, err)
	return reg.host + "/" + name
}

// prepare does what a start does before it boots.
func prepare(t testing.TB, b *LiteBox) *bootRecord {
	t.Helper()
	rec, err := tryPrepare(b)
	require.NoError(t, err)
	return rec
}

func tryPrepare(b *LiteBox) (*bootRecord, error) {
	ctx := context.Background()
	if err := b.Pull(ctx); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, b.dir())
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	return b.image(ctx)
}

func createBox(t testing.TB, rt *Runtime, image, name string) *LiteBox {
	t.Helper()
	b, err := rt.Create(t.Context(), BoxOptions{Rootfs: Image(image), KeepOnStop: true}, name)
	require.NoError(t, err)
	return b
}

func blocksBelow(t testing.TB, dir string) (n int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		n += onDisk(info)
		return err
	}))
	return n
}

func TestImageOfABoxStays(t *testing.T) {
	reg := newLoopback(t)
	rt := newTestRuntime(t)
	ref := pushImage(t, rt, reg, "app:x", string(bytes.Repeat([]byte("large enough "), 50_000)))
	b := createBox(t, rt, ref, "web")
	_, err := rt.RemoveImage(t.Context(), ref, false)
	require.ErrorIs(t, err, ErrNotFound, "a box that never started pulls later")
	rec := prepare(t, b)
	images := filepath.Join(rt.HomeDir(), "images")

	_, err = rt.RemoveImage(t.Context(), ref, false)
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorContains(t, err, "box web ("+string(b.ID())+")")
	rep, err := rt.Prune(t.Context(), PruneOptions{AllImages: true, Boxes: true})
	require.NoError(t, err)
	require.Empty(t, rep.Images.Untagged)
	require.Empty(t, rep.Boxes, "it was never started")

	removed, err := rt.RemoveImage(t.Context(), ref, true)
	require.NoError(t, err)
	require.Equal(t, []oci.Digest{oci.Digest(rec.Digest)}, removed.Kept)
	require.True(t, rec.usable())
	require.Equal(t, rec, prepare(t, b), "it still boots")
	u, err := rt.DiskUsage(t.Context())
	require.NoError(t, err)
	require.Len(t, u.Boxes, 1)
	require.Greater(t, u.Images.Total, int64(600_000))
	require.Less(t, u.Images.Reclaimable, int64(20_000))

	before := blocksBelow(t, images)
	require.NoError(t, rt.Remove(t.Context(), "web", false))
	require.Greater(t, before-blocksBelow(t, images), int64(600_000), "with the last box its image goes")
	require.Zero(t, blocksBelow(t, images))
}

// A box whose image is gone gets the same one again, or says so; never what its
// tag means by now.
func TestRestartTakesTheSameImage(t *testing.T) {
	reg := newLoopback(t)
	rt := newTestRuntime(t)
	ref := pushImage(t, rt, reg, "app:x", strings.Repeat("the first ", 1000))
	b := createBox(t, rt, ref, "web")
	first := prepare(t, b)
	pushImage(t, rt, reg, "app:x", "the second")
	store, err := rt.Images()
	require.NoError(t, err)
	img, err := store.Pull(t.Context(), ref, oci.PullOptions{Policy: oci.PullAlways})
	require.NoError(t, err)
	require.NotEqual(t, first.Digest, string(img.Digest))
	require.Equal(t, first, prepare(t, b))

	lose := func() {
		for _, p := range first.Parts {
			require.NoError(t, os.Remove(p.Path))
		}
		_, err = store.Prune(t.Context(), oci.PruneOptions{})
		require.NoError(t, err)
	}
	lose()
	require.False(t, first.usable())
	require.Equal(t, first, prepare(t, b), "from the registry, by digest")
	other := createBox(t, rt, ref, "other")
	require.Equal(t, string(img.Digest), prepare(t, other).Digest, "new boxes take the tag")

	lose()
	reg.answer(refuseAll)
	_, err = tryPrepare(b)
	require.ErrorIs(t, err, ErrImage)
	require.ErrorContains(t, err, first.Digest)
	require.ErrorContains(t, err, "remove the box")

	// A record that cannot be read is no reason to choose anew either.
	require.NoError(t, os.WriteFile(filepath.Join(b.dir(), recordName), []byte("{"), 0o600))
	_, err = tryPrepare(b)
	require.ErrorIs(t, err, ErrMetadata)
	_, err = rt.RemoveImage(t.Context(), ref, true)
	require.ErrorIs(t, err, ErrMetadata, "what it uses cannot be told")
	require.NoError(t, rt.Remove(t.Context(), string(b.ID()), false))
}

func TestPruneFreesStoppedBoxes(t *testing.T) {
	reg := newLoopback(t)
	rt := newTestRuntime(t)
	ref := pushImage(t, rt, reg, "app:x", "text")
	b := createBox(t, rt, ref, "old")
	prepare(t, b)
	require.NoError(t, os.WriteFile(b.diskPath(), make([]byte, 3<<20), 0o600))
	require.NoError(t, os.Truncate(b.diskPath(), 1<<30))
	require.NoError(t, os.WriteFile(b.ConsolePath(), make([]byte, 8192), 0o600))
	db, err := rt.state(t.Context())
	require.NoError(t, err)
	_, err = db.Update(t.Context(), string(b.ID()), setStatus(StatusStopped))
	require.NoError(t, err)

	u, err := rt.DiskUsage(t.Context())
	require.NoError(t, err)
	require.Len(t, u.Boxes, 1)
	require.GreaterOrEqual(t, u.Boxes[0].Disk, int64(3<<20))
	require.Less(t, u.Boxes[0].Disk, int64(4<<20), "holes are not counted")
	require.GreaterOrEqual(t, u.Boxes[0].Logs, int64(8192))

	before := blocksBelow(t, rt.HomeDir())
	rep, err := rt.Prune(t.Context(), PruneOptions{Boxes: true, AllImages: true})
	require.NoError(t, err)
	require.Len(t, rep.Boxes, 1)
	require.Equal(t, []string{ref}, rep.Images.Untagged)
	require.GreaterOrEqual(t, rep.Freed, int64(3<<20))
	freed := before - blocksBelow(t, rt.HomeDir())
	require.GreaterOrEqual(t, freed, int64(3<<20))
	require.InDelta(t, freed, rep.Freed, 64<<10, "records and folders apart")
}
