package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// testImage is an image as its builder has it.
type testImage struct {
	manifest []byte
	config   []byte
	layers   [][]byte // as distributed
	plain    [][]byte // tars
}

func (i testImage) digest() Digest { return digestOf(i.manifest) }

// tarOf makes a layer of regular files; a name that ends in / is a folder.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg, ModTime: time.Unix(1700000000, 0)}
		if strings.HasSuffix(files[i], "/") {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, files[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return w.EncodeAll(b, nil)
}

// noise is data that does not compress, so that sizes on the wire are known.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

type edit func(cfg, manifest map[string]any)

// imageOf builds an image for linux on this machine's architecture out of
// tars, compressed with gzip, zstd and not at all in turn.
func imageOf(t testing.TB, edits []edit, tars ...[]byte) testImage {
	t.Helper()
	img := testImage{plain: tars}
	var diffIDs []Digest
	layers := []map[string]any{}
	for i, p := range tars {
		blob, mt := gzipOf(t, p), typeOCILayer+"+gzip"
		switch i % 3 {
		case 1:
			blob, mt = zstdOf(t, p), typeOCILayer+"+zstd"
		case 2:
			blob, mt = p, typeOCILayer
		}
		diffIDs = append(diffIDs, digestOf(p))
		img.layers = append(img.layers, blob)
		layers = append(layers, map[string]any{"mediaType": mt, "digest": digestOf(blob), "size": len(blob)})
	}
	cfg := map[string]any{
		"created": "2024-05-06T07:08:09Z", "os": "linux", "architecture": runtime.GOARCH,
		"config": map[string]any{"Env": []string{"A=b"}, "Cmd": []string{"sh"}, "WorkingDir": "/w", "User": "1:2",
			"Entrypoint": []string{"/e"}, "StopSignal": "SIGINT", "Labels": map[string]string{"l": "v"},
			"ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "Volumes": map[string]any{"/v": map[string]any{}}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}
	manifest := map[string]any{"schemaVersion": 2, "mediaType": typeOCIManifest, "layers": layers}
	for _, e := range edits {
		e(cfg, nil)
	}
	img.config = mustJSON(t, cfg)
	manifest["config"] = map[string]any{"mediaType": typeOCIConfig, "digest": digestOf(img.config), "size": len(img.config)}
	for _, e := range edits {
		e(nil, manifest)
	}
	img.manifest = mustJSON(t, manifest)
	return img
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

func indexOf(t testing.TB, entries ...map[string]any) []byte {
	return mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": entries})
}

func entryOf(mediaType string, raw []byte, platform string) map[string]any {
	e := map[string]any{"mediaType": mediaType, "digest": digestOf(raw), "size": len(raw)}
	if platform != "" {
		p, err := ParsePlatform(platform)
		if err != nil {
			panic(err)
		}
		e["platform"] = p
	}
	return e
}

// server is a registry on loopback whose answers can be tampered with.
type server struct {
	*httptest.Server
	t    testing.TB
	mu   sync.Mutex
	gets map[string]int // GETs by last path element
	rngs []string       // Range headers seen
	hook func(w http.ResponseWriter, r *http.Request) (handled bool)
}

func newServer(t testing.TB) *server {
	s := &server{t: t, gets: map[string]int{}}
	inner := gcr.New(gcr.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if r.Method == http.MethodGet {
			s.gets[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]++
			if rng := r.Header.Get("Range"); rng != "" {
				s.rngs = append(s.rngs, rng)
			}
		}
		hook := s.hook
		s.mu.Unlock()
		if hook != nil && r.Header.Get("X-Test") == "" && hook(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) setHook(h func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

func (s *server) count(what Digest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets[string(what)]
}

func (s *server) ranges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.rngs...)
}

func (s *server) host() string { return strings.TrimPrefix(s.URL, "http://") }

func (s *server) do(method, path, contentType string, body []byte) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("X-Test", "1")
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	msg, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	require.Less(s.t, resp.StatusCode, 300, "%s %s: %s", method, path, msg)
}

func (s *server) putBlob(repo string, b []byte) {
	s.t.Helper()
	s.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+string(digestOf(b)), "application/octet-stream", b)
}

func (s *server) putManifest(repo, tag, mediaType string, b []byte) {
	s.t.Helper()
	s.do("PUT", "/v2/"+repo+"/manifests/"+tag, mediaType, b)
}

// push puts an image where ref (without host) says, and by its digest.
func (s *server) push(repo, tag string, img testImage) string {
	s.t.Helper()
	for _, b := range append([][]byte{img.config}, img.layers...) {
		s.putBlob(repo, b)
	}
	s.putManifest(repo, string(img.digest()), typeOCIManifest, img.manifest)
	s.putManifest(repo, tag, typeOCIManifest, img.manifest)
	return s.host() + "/" + repo + ":" + tag
}

// newStore opens a store that repeats quickly.
func newStore(t testing.TB, edits ...func(*Options)) *Store {
	t.Helper()
	o := Options{RetryDelay: time.Millisecond, StallTimeout: time.Minute, Keychain: anonymous{}}
	for _, e := range edits {
		e(&o)
	}
	s, err := Open(filepath.Join(t.TempDir(), "images"), o)
	require.NoError(t, err)
	return s
}

// requireClean fails if a pull left anything unfinished behind.
func requireClean(t testing.TB, s *Store) {
	t.Helper()
	for _, d := range []string{tmpDir, partialDir} {
		entries, err := os.ReadDir(s.path(d))
		require.NoError(t, err)
		require.Empty(t, entries, "leftovers in %s", d)
	}
}

// requireEmpty fails if anything of an image got into the store proper.
func requireEmpty(t testing.TB, s *Store) {
	t.Helper()
	for _, d := range []string{layersDir, rootfsDir, refsDir} {
		entries, err := os.ReadDir(s.path(d))
		require.NoError(t, err)
		require.Empty(t, entries, "in %s", d)
	}
}

// requireContents reads an image's root file system far enough to find texts
// that its files contain.
func requireContents(t testing.TB, s *Store, img Image, texts ...string) {
	t.Helper()
	r, err := s.Rootfs(t.Context(), img, nil)
	require.NoError(t, err)
	var all bytes.Buffer
	for _, p := range r.Parts {
		b, err := os.ReadFile(p.Path)
		require.NoError(t, err)
		require.EqualValues(t, p.Length, len(b)-int(p.Offset))
		all.Write(b)
	}
	require.EqualValues(t, r.Size(), all.Len())
	for _, text := range texts {
		require.True(t, bytes.Contains(all.Bytes(), []byte(text)), "%q is not in the root file system", text)
	}
}

func cut(w http.ResponseWriter, body []byte, keep int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusOK)
	w.Write(body[:keep])
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}
