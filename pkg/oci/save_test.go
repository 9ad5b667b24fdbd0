package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/oci/erofs/erofstest"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	gcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/stretchr/testify/require"
)

// treeOf lists an image's root file system, inode by inode.
func treeOf(t testing.TB, s *Store, img Image) []erofstest.File {
	t.Helper()
	r, err := s.Rootfs(t.Context(), img, nil)
	require.NoError(t, err)
	var device bytes.Buffer
	for _, p := range r.Parts {
		b, err := os.ReadFile(p.Path)
		require.NoError(t, err)
		device.Write(b)
	}
	e, err := erofstest.Open(bytes.NewReader(device.Bytes()), int64(device.Len()))
	require.NoError(t, err)
	files, err := e.Walk()
	require.NoError(t, err)
	return files
}

func saved(t testing.TB, s *Store, format string, keys ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.Save(t.Context(), &b, keys, SaveOptions{Format: format}))
	return b.Bytes()
}

// layered is an image whose upper layers hide, replace and link.
func layered(t testing.TB) testImage {
	var top bytes.Buffer
	w := tar.NewWriter(&top)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "d/.wh.gone"},
		{Typeflag: tar.TypeReg, Name: "o/.wh..wh..opq"},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/kept"},
		{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: "/d", Uid: 5, Gid: 6},
		{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		{Typeflag: tar.TypeDir, Name: "suid/", Mode: 0o3755, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v\x00"}},
	} {
		require.NoError(t, w.WriteHeader(&h))
	}
	require.NoError(t, w.Close())
	edits := []edit{func(cfg, _ map[string]any) {
		if cfg != nil {
			cfg["history"] = []map[string]any{{"created_by": "base"}, {"created_by": "ENV", "empty_layer": true}, {"created_by": "top"}}
			cfg["com.example.unknown"] = map[string]any{"kept": true}
		}
	}}
	return imageOf(t, edits, tarOf(t, "d/", "", "d/gone", "1", "d/kept", noise(1, 9000), "o/", "", "o/hidden", "1"), top.Bytes())
}

func TestSaveAndLoad(t *testing.T) {
	srv := newServer(t)
	img := layered(t)
	other := imageOf(t, nil, img.plain[0], tarOf(t, "other", "x"))
	ref, ref2, otherRef := srv.push("app", "v1", img), srv.push("second/name", "v2", img), srv.push("app", "other", other)
	from := newStore(t)
	images := pullAll(t, from, ref, ref2, otherRef)
	want, wantOther := treeOf(t, from, images[0]), treeOf(t, from, images[2])
	for _, format := range []string{FormatOCI, FormatDocker} {
		t.Run(format, func(t *testing.T) {
			b := saved(t, from, format, ref, otherRef, ref2)
			require.Equal(t, b, saved(t, from, format, ref, otherRef, ref2), "the same bytes every time")

			s := newStore(t)
			got, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{})
			require.NoError(t, err)
			require.Len(t, got, 3)
			for _, want := range []string{ref, ref2, otherRef} {
				_, err := s.Resolve(t.Context(), want)
				require.NoError(t, err, want)
			}
			back, err := s.Resolve(t.Context(), ref)
			require.NoError(t, err)
			require.Equal(t, want, treeOf(t, s, back))
			require.Equal(t, images[0].Config, back.Config)
			require.Equal(t, images[0].Created, back.Created)
			require.Equal(t, images[0].Platform, back.Platform)
			raw, ok := s.readBlob(back.ConfigDigest, maxConfig)
			require.True(t, ok)
			var before, after map[string]any
			require.NoError(t, json.Unmarshal(img.config, &before))
			require.NoError(t, json.Unmarshal(raw, &after))
			delete(before, "rootfs")
			delete(after, "rootfs")
			require.Equal(t, before, after)
			otherBack, err := s.Resolve(t.Context(), otherRef)
			require.NoError(t, err)
			require.Equal(t, wantOther, treeOf(t, s, otherBack))
			require.Equal(t, back.Layers[0].DiffID, otherBack.Layers[0].DiffID, "a shared layer stays shared")
			requireClean(t, s)

			// Saved again it is the same archive.
			require.Equal(t, b, saved(t, s, format, ref, otherRef, ref2))

			// Compressed, and in a file.
			file := filepath.Join(t.TempDir(), "a.tar.gz")
			require.NoError(t, os.WriteFile(file, gzipOf(t, b), 0o600))
			f, err := os.Open(file)
			require.NoError(t, err)
			defer f.Close()
			s = newStore(t)
			got, err = s.Load(t.Context(), f, LoadOptions{})
			require.NoError(t, err)
			require.Len(t, got, 3)
			_, err = f.Stat()
			require.NoError(t, err, "the caller's file stays open")
			s = newStore(t)
			_, err = s.Load(t.Context(), io.MultiReader(bytes.NewReader(gzipOf(t, b))), LoadOptions{})
			require.NoError(t, err)
			requireClean(t, s)
		})
	}
}

// Others read what Save writes: every digest and size of it is right.
func TestOthersReadArchives(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "v1", layered(t))
	pullAll(t, s, ref)
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(saved(t, s, FormatOCI, ref))); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		writeTree(t, dir, map[string][]byte{h.Name: b})
	}
	index, err := gcrlayout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	checkIndex(t, index)

	file := filepath.Join(t.TempDir(), "a.tar")
	for format, ref := range map[string]string{FormatDocker: "docker-archive:" + file + ":" + ref, FormatOCI: "oci-archive:" + file + ":v1"} {
		require.NoError(t, os.WriteFile(file, saved(t, s, format, srv.host()+"/app:v1"), 0o600))
		got, err := newStore(t).Pull(t.Context(), ref, PullOptions{})
		require.NoError(t, err)
		require.Len(t, got.Layers, 2)
	}
}

func TestLoadWithoutName(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("text of f"), 0o600))
	s := newStore(t)
	img := pullAll(t, s, "dir:"+dir)[0]
	for _, format := range []string{FormatOCI, FormatDocker} {
		to := newStore(t)
		got, err := to.Load(t.Context(), bytes.NewReader(saved(t, s, format, img.Digest.Short())), LoadOptions{})
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.True(t, got[0].Dangling)
		require.Equal(t, string(got[0].Digest), got[0].Reference)
		back, err := to.Pull(t.Context(), got[0].Digest.Short(), PullOptions{Policy: PullNever})
		require.NoError(t, err)
		require.Equal(t, treeOf(t, s, img), treeOf(t, to, back))
	}
}

func TestLoadFaults(t *testing.T) {
	srv := newServer(t)
	from := newStore(t)
	ref := srv.push("app", "v1", imageOf(t, nil, tarOf(t, "f", noise(1, 4000))))
	pullAll(t, from, ref)
	good := saved(t, from, FormatOCI, ref)
	for name, c := range map[string]struct {
		b     []byte
		kind  error
		words string
	}{
		"empty":        {nil, ErrUnsupported, "empty"},
		"no tar":       {[]byte(noise(2, 4096)), ErrUnsupported, "not a tar archive"},
		"other tar":    {tarOf(t, "hello", "world"), ErrUnsupported, "not an image archive"},
		"truncated":    {good[:len(good)-6000], nil, ""},
		"damaged":      {bytes.Replace(good, []byte(noise(1, 4000)[:50]), make([]byte, 50), 1), ErrCorrupt, "digest"},
		"bad config":   {bytes.Replace(good, []byte(`"SIGINT"`), []byte(`"SIGTRM"`), 1), ErrCorrupt, "config"},
		"no gzip":      {append([]byte("\x1f\x8b\x08"), noise(3, 500)...), nil, ""},
		"damaged gzip": {gzipOf(t, good)[:1500], nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			got, err := s.Load(t.Context(), bytes.NewBuffer(c.b), LoadOptions{})
			require.Error(t, err)
			require.Empty(t, got)
			if c.kind != nil {
				require.ErrorIs(t, err, c.kind)
			}
			require.ErrorContains(t, err, c.words)
			require.ErrorContains(t, err, "oci: loading images: ")
			require.NotContains(t, err.Error(), "\n")
			requireEmpty(t, s)
			requireClean(t, s)
		})
	}
	_, err := newStore(t).Load(t.Context(), bytes.NewReader(good), LoadOptions{Platform: Platform{OS: "linux", Architecture: "s390x"}})
	require.ErrorIs(t, err, ErrPlatform)
}

func TestSaveFaults(t *testing.T) {
	s := newStore(t)
	require.ErrorIs(t, s.Save(t.Context(), io.Discard, []string{"nope"}, SaveOptions{}), ErrNotFound)
	require.ErrorIs(t, s.Save(t.Context(), io.Discard, []string{"nope"}, SaveOptions{Format: "zip"}), ErrUnsupported)
	srv := newServer(t)
	ref := srv.push("app", "v1", imageOf(t, nil, tarOf(t, "f", "x")))
	img := pullAll(t, s, ref)[0]
	other := Platform{OS: "linux", Architecture: "s390x"}
	err := s.Save(t.Context(), io.Discard, []string{ref}, SaveOptions{Platform: other})
	require.ErrorIs(t, err, ErrPlatform)
	require.ErrorContains(t, err, ref+": image is not available for linux/s390x, only for "+img.Platform.String())
	s.opts.Platform = other
	require.NoError(t, s.Save(t.Context(), io.Discard, []string{ref}, SaveOptions{}), "nobody asked for a platform")
	require.NoError(t, os.Remove(s.blobPath(img.ConfigDigest)))
	err = s.Save(t.Context(), io.Discard, []string{ref}, SaveOptions{})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "pull the image again")
}

// checkIndex reads all that an index names, which verifies digests and sizes.
func checkIndex(t *testing.T, index v1.ImageIndex) {
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.NotEmpty(t, manifest.Manifests)
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		require.NoError(t, err)
		layers, err := img.Layers()
		require.NoError(t, err)
		require.Len(t, layers, 2)
		cfg, err := img.ConfigFile()
		require.NoError(t, err)
		for i, l := range layers {
			r, err := l.Uncompressed()
			require.NoError(t, err)
			b, err := io.ReadAll(r)
			require.NoError(t, err)
			digest, err := l.Digest()
			require.NoError(t, err)
			require.Equal(t, digest.String(), string(digestOf(b)))
			require.Equal(t, digest, cfg.RootFS.DiffIDs[i])
		}
	}
}
