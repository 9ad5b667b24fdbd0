package oci

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

const testArtifact = "application/vnd.example.test.v1"

// artifactLayout writes an artifact of two files for this machine and another.
func artifactLayout(t testing.TB, texts ...string) (dir string, digest Digest) {
	t.Helper()
	files := map[string][]byte{layoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	put := func(b []byte) map[string]any {
		files[blobName(digestOf(b))] = b
		return map[string]any{"mediaType": "application/octet-stream", "digest": digestOf(b), "size": len(b)}
	}
	manifest := func(texts ...string) []byte {
		var layers []map[string]any
		for _, s := range texts {
			layers = append(layers, put([]byte(s)))
		}
		b := mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": typeOCIManifest, "artifactType": testArtifact,
			"config": put([]byte("{}")), "layers": layers, "annotations": map[string]string{"k": "v"}})
		put(b)
		return b
	}
	index := indexOf(t, entryOf(typeOCIManifest, manifest(texts...), DefaultPlatform().String()), entryOf(typeOCIManifest, manifest("other"), "linux/s390x"))
	put(index)
	files[indexFile] = indexOf(t, entryOf(typeOCIIndex, index, ""))
	dir = t.TempDir()
	writeTree(t, dir, files)
	return dir, digestOf(index)
}

func TestPushAndReadArtifact(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	text := noise(1, 300<<10)
	dir, digest := artifactLayout(t, text, "small")
	var uploads atomic.Int32
	srv.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			uploads.Add(1)
		}
		return false
	})
	for range 2 {
		d, err := s.Push(t.Context(), dir, srv.host()+"/a/b:v1", nil)
		require.NoError(t, err)
		require.Equal(t, digest, d)
		require.EqualValues(t, 4, uploads.Load(), "two files, another, and the config; once")
	}

	// The connection is cut on the way; the reader does not notice.
	var once atomic.Bool
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, []byte(text)) && once.CompareAndSwap(false, true) {
			cut(w, []byte(text), 100<<10)
		}
		return false
	})
	for _, ref := range []string{srv.host() + "/a/b:v1", "oci:" + dir} {
		var got []string
		a, err := s.ReadArtifact(t.Context(), ref, ArtifactOptions{Type: testArtifact, Digest: digest}, func(f ArtifactFile, r io.Reader) error {
			b, err := io.ReadAll(r)
			got = append(got, string(b))
			return err
		})
		require.NoError(t, err)
		require.Equal(t, []string{text, "small"}, got)
		require.Equal(t, digest, a.Digest)
		require.Equal(t, map[string]string{"k": "v"}, a.Annotations)
		requireClean(t, s)
	}
	require.True(t, once.Load())
	require.Contains(t, srv.ranges(), fmt.Sprintf("bytes=%d-%d", 100<<10, len(text)-1))
}

func TestArtifactFaults(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	dir, digest := artifactLayout(t, "one", "two")
	ignore := func(ArtifactFile, io.Reader) error { return nil }
	_, err := s.ReadArtifact(t.Context(), "oci:"+dir, ArtifactOptions{Type: "application/other"}, ignore)
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = s.ReadArtifact(t.Context(), "oci:"+dir, ArtifactOptions{Type: testArtifact, Platform: Platform{OS: "linux", Architecture: "mips"}}, ignore)
	require.ErrorIs(t, err, ErrPlatform)
	_, err = s.ReadArtifact(t.Context(), "dir:"+dir, ArtifactOptions{Type: testArtifact}, ignore)
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = s.ReadArtifact(t.Context(), srv.host()+"/nope", ArtifactOptions{Type: testArtifact}, ignore)
	require.ErrorIs(t, err, ErrNotFound)
	boom := fmt.Errorf("boom")
	_, err = s.ReadArtifact(t.Context(), "oci:"+dir, ArtifactOptions{Type: testArtifact}, func(ArtifactFile, io.Reader) error { return boom })
	require.ErrorIs(t, err, boom)

	// Whatever read makes of it, a file that is not the one is an error.
	require.NoError(t, os.WriteFile(filepath.Join(dir, blobName(digestOf([]byte("two")))), []byte("TWO"), 0o600))
	_, err = s.ReadArtifact(t.Context(), "oci:"+dir, ArtifactOptions{Type: testArtifact, Digest: digest}, ignore)
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = s.Push(t.Context(), dir, srv.host()+"/x:y", nil)
	require.Error(t, err, "the registry refuses it")

	for ref, kind := range map[string]error{
		"oci:" + dir: ErrReference,
		srv.host() + "/x@" + string(digestOf([]byte("other"))): ErrReference,
	} {
		_, err = s.Push(t.Context(), dir, ref, nil)
		require.ErrorIs(t, err, kind, ref)
	}
	_, err = s.Push(t.Context(), "dir:"+dir, srv.host()+"/x", nil)
	require.ErrorIs(t, err, ErrUnsupported)
	srv.setHook(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true })
	_, err = s.Push(t.Context(), dir, srv.host()+"/x", nil)
	require.ErrorIs(t, err, ErrUnauthorized)
	require.ErrorContains(t, err, "push")
}
