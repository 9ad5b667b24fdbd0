package oci

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireRefused pulls ref and wants it refused with the given kind and words,
// nothing of it in the store.
func requireRefused(t *testing.T, s *Store, ref string, kind error, words ...string) {
	t.Helper()
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.ErrorIs(t, err, kind)
	for _, w := range words {
		require.ErrorContains(t, err, w)
	}
	require.NotContains(t, err.Error(), "\n", "one line")
	requireEmpty(t, s)
	requireClean(t, s)
	_, err = s.Resolve(t.Context(), ref)
	require.Error(t, err)
}

func TestHostile51ManifestWithoutLayers(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "empty", imageOf(t, nil))
	requireRefused(t, s, ref, ErrUnsupported, "no layers")
	_, err := s.Rootfs(t.Context(), Image{Reference: "x"}, nil)
	require.ErrorIs(t, err, ErrUnsupported)

	tooMany := make([][]byte, maxLayers+1)
	for i := range tooMany {
		tooMany[i] = tarOf(t, "f", "same")
	}
	requireRefused(t, s, srv.push("app", "many", imageOf(t, nil, tooMany...)), ErrUnsupported, "257 layers")

	ref = srv.push("app", "uneven", imageOf(t, []edit{func(cfg, _ map[string]any) {
		if cfg != nil {
			cfg["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{}}
		}
	}}, tarOf(t, "f", "x")))
	requireRefused(t, s, ref, ErrCorrupt, "config names 0 layers, the manifest 1")
}

func TestHostile51LayerThatIsNoTar(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	for i, junk := range []string{"", "junk", noise(1, 100<<10), "\x1f\x8b\x08garbage", strings.Repeat("A", 4096)} {
		ref := srv.push("app", fmt.Sprint("t", i), imageOf(t, nil, []byte(junk)))
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		if junk == "" { // an empty tar is an empty layer to every reader of tar
			require.NoError(t, err)
			_, err = s.Remove(t.Context(), ref, RemoveOptions{})
			require.NoError(t, err)
			s = newStore(t)
			continue
		}
		require.Error(t, err)
		requireEmpty(t, s)
		requireClean(t, s)
	}
}

// A bomb is stopped by what it unpacks to, long before it is written.
func TestHostile51Bomb(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, func(o *Options) { o.MaxLayer = 2 << 20 })
	big := tarOf(t, "zeros", string(make([]byte, 8<<20)))
	requireRefused(t, s, srv.push("app", "bomb", imageOf(t, nil, big)), ErrUnsupported)
	// The layer before the bomb is sound and may stay; the image does not.
	zbomb := imageOf(t, nil, tarOf(t, "f", "x"), big)
	_, err := s.Pull(t.Context(), srv.push("app", "zbomb", zbomb), PullOptions{})
	require.ErrorIs(t, err, ErrUnsupported)
	_, ok := s.haveLayer(digestOf(big))
	require.False(t, ok)
	requireClean(t, s)
}

func TestHostile52SizeBombs(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	bomb := bytes.Repeat([]byte(" "), maxManifest+1)
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", typeOCIManifest)
		for range 64 { // without a length, and more than would be read
			if _, err := w.Write(bomb); err != nil {
				break
			}
		}
		return true
	})
	requireRefused(t, s, srv.host()+"/app", ErrUnsupported, "more than 4.0 MiB")
	srv.setHook(nil)

	good := tarOf(t, "f", "x")
	ref := srv.push("app", "cfg", imageOf(t, []edit{func(_, m map[string]any) {
		if m != nil {
			m["config"].(map[string]any)["size"] = int64(1) << 40
		}
	}}, good))
	requireRefused(t, s, ref, ErrUnsupported, "config")
	for _, size := range []int64{-1, 1 << 62, 1<<63 - 1} {
		ref = srv.push("app", "layer", imageOf(t, []edit{func(_, m map[string]any) {
			if m != nil {
				m["layers"].([]map[string]any)[0]["size"] = size
			}
		}}, good))
		requireRefused(t, s, ref, ErrUnsupported, "layer 1")
	}

	// Nesting deep enough to exhaust a careless parser's stack.
	deep := `{"schemaVersion":2,"annotations":` + strings.Repeat(`{"a":`, 500000) + strings.Repeat("}", 500001)
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Write([]byte(deep))
		return true
	})
	requireRefused(t, s, srv.host()+"/app:deep", ErrCorrupt)
}

func TestHostile52DigestMismatch(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	want := imageOf(t, nil, tarOf(t, "f", noise(1, 100<<10)))
	ref := srv.push("app", "x", want)
	swapped := map[string][]byte{}
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		b, ok := swapped[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		if ok {
			w.Header().Set("Content-Type", typeOCIManifest)
			w.Write(b)
		}
		return ok
	})
	flip := func(b []byte) []byte {
		c := bytes.Clone(b)
		c[len(c)/2] ^= 1
		return c
	}
	layer, config := string(digestOf(want.layers[0])), string(digestOf(want.config))

	swapped[layer] = flip(want.layers[0])
	requireRefused(t, s, ref, ErrCorrupt, layer)
	// Same length, a valid layer, only another one.
	other := imageOf(t, nil, tarOf(t, "f", noise(2, 100<<10)))
	swapped[layer] = other.layers[0]
	requireRefused(t, s, ref, ErrCorrupt)
	delete(swapped, layer)

	s = newStore(t) // the one so far has the right config
	swapped[config] = flip(want.config)
	requireRefused(t, s, ref, ErrCorrupt, config)
	swapped[config] = append(bytes.Clone(want.config), ' ')
	requireRefused(t, s, ref, ErrCorrupt)
	delete(swapped, config)

	pinned := srv.host() + "/app@" + string(want.digest())
	swapped[string(want.digest())] = other.manifest
	requireRefused(t, s, pinned, ErrCorrupt, string(want.digest()))
	delete(swapped, string(want.digest()))

	// The config's word about what is in a layer is checked as well.
	lie := imageOf(t, []edit{func(cfg, _ map[string]any) {
		if cfg != nil {
			cfg["rootfs"] = map[string]any{"type": "layers", "diff_ids": []Digest{digestOf([]byte("another"))}}
		}
	}}, tarOf(t, "f", "x"))
	requireRefused(t, s, srv.push("app", "lie", lie), ErrCorrupt, "the image config says")

	// None of this is in the way of the honest image.
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	requireContents(t, s, img, noise(1, 100<<10))
}

func TestHostile52WrongMediaType(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	layer := func(mt string) []edit {
		return []edit{func(_, m map[string]any) {
			if m != nil {
				m["layers"].([]map[string]any)[0]["mediaType"] = mt
			}
		}}
	}
	good := tarOf(t, "f", "x")
	for mt, words := range map[string]string{
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "foreign",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "foreign",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    "foreign",
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip":          "not a file system layer",
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        "compression",
		"application/vnd.oci.image.layer.v1.tar+xz":                    "compression",
		"": "not a file system layer",
	} {
		requireRefused(t, s, srv.push("app", "l", imageOf(t, layer(mt), good)), ErrUnsupported, words)
	}
	helm := imageOf(t, []edit{func(_, m map[string]any) {
		if m != nil {
			m["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
		}
	}}, good)
	requireRefused(t, s, srv.push("app", "helm", helm), ErrUnsupported, "not a container image")

	serve := func(contentType, body string) {
		srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", contentType)
			fmt.Fprint(w, body)
			return true
		})
	}
	valid := imageOf(t, nil, good)
	for _, c := range []struct {
		contentType, body string
		kind              error
		words             string
	}{
		{typeOCIIndex, string(valid.manifest), ErrCorrupt, "calls itself"},
		{typeDockerManifest, string(valid.manifest), ErrCorrupt, "calls itself"},
		{"text/html", "<html>log in first</html>", ErrCorrupt, "not valid"},
		{"text/html", `{"schemaVersion":2,"config":{}}`, ErrUnsupported, "text/html"},
		{typeDockerSigned1, `{"schemaVersion":1,"fsLayers":[]}`, ErrUnsupported, "schema 1"},
		{"", `{"schemaVersion":1}`, ErrUnsupported, "schema 1"},
		{typeOCIManifest, `{}`, ErrUnsupported, "schemaVersion 0"},
		{typeOCIManifest, `{"schemaVersion":2}`, ErrUnsupported, "no config"},
		{typeOCIManifest, `[]`, ErrCorrupt, ""},
		{typeOCIManifest, `null`, ErrUnsupported, ""},
		{typeOCIIndex, `{"schemaVersion":2,"manifests":[],"layers":[]}`, ErrUnsupported, "ambiguous"},
		{typeOCIIndex, `{"schemaVersion":2,"manifests":[]}`, ErrUnsupported, "no images"},
		{typeOCIIndex, `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`, ErrCorrupt, "digest"},
		{typeOCIIndex, `{"schemaVersion":2,"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}]}`, ErrCorrupt, "md5"},
		{typeOCIManifest, `{"schemaVersion":2,"mediaType":"application/x-evil"}`, ErrUnsupported, "x-evil"},
	} {
		serve(c.contentType, c.body)
		requireRefused(t, s, srv.host()+"/app:m", c.kind, c.words)
	}
	// A server of plain files calls a manifest JSON, or nothing at all.
	srv.setHook(nil)
	srv.push("app", "plain", valid)
	for _, ct := range []string{"application/json", "text/plain; charset=utf-8", typeOCIManifest + "; charset=utf-8"} {
		serve(ct, string(valid.manifest))
		_, err := newStore(t).Pull(t.Context(), srv.host()+"/app:plain", PullOptions{})
		require.NoError(t, err, ct)
	}
}

func TestHostile52CircularIndex(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	// An index cannot contain its own digest, so the server lies: it gives
	// an index that lists X for X.
	x := digestOf([]byte("x"))
	loop := indexOf(t, map[string]any{"mediaType": typeOCIIndex, "digest": x, "size": 200})
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", typeOCIIndex)
		w.Write(loop)
		return true
	})
	requireRefused(t, s, srv.host()+"/app:loop", ErrCorrupt, string(x))
	require.LessOrEqual(t, srv.count(x), 1)
	srv.setHook(nil)

	// Honest digests, but endless: deep, and wide.
	img := imageOf(t, nil, tarOf(t, "f", "x"))
	srv.push("app", "img", img)
	raw := indexOf(t, entryOf(typeOCIManifest, img.manifest, DefaultPlatform().String()))
	for range maxIndexDepth + 2 {
		srv.putManifest("app", string(digestOf(raw)), typeOCIIndex, raw)
		raw = indexOf(t, entryOf(typeOCIIndex, raw, ""))
	}
	srv.putManifest("app", "deep", typeOCIIndex, raw)
	requireRefused(t, s, srv.host()+"/app:deep", ErrUnsupported, "nested")

	var wide []map[string]any
	for i := range maxIndexVisits + 5 {
		leaf := mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": []any{},
			"annotations": map[string]string{"n": fmt.Sprint(i)}})
		srv.putManifest("app", string(digestOf(leaf)), typeOCIIndex, leaf)
		wide = append(wide, entryOf(typeOCIIndex, leaf, ""))
	}
	srv.putManifest("app", "wide", typeOCIIndex, indexOf(t, wide...))
	requireRefused(t, s, srv.host()+"/app:wide", ErrUnsupported, "more than 64 indexes")
}

func TestHostile52TruncatedBlob(t *testing.T) {
	srv := newServer(t)
	s := newStore(t, func(o *Options) { o.Retries = 2 })
	want := imageOf(t, nil, tarOf(t, "f", noise(1, 100<<10)))
	ref := srv.push("app", "x", want)
	blob := want.layers[0]

	// Always cut: given up after some tries; what came is kept for later
	// and only there.
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, blob) {
			cut(w, blob, 1000)
		}
		return false
	})
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	requireEmpty(t, s)
	st, err := os.Stat(s.partialPath(digestOf(blob)))
	require.NoError(t, err)
	require.EqualValues(t, 1000, st.Size())
	require.NoError(t, os.Remove(s.partialPath(digestOf(blob))))

	// Short, and sure of it.
	for _, n := range []int{0, 1, len(blob) - 1} {
		srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, blob) {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(n))
			w.Write(blob[:n])
			return true
		})
		requireRefused(t, s, ref, ErrCorrupt, "the manifest says")
	}
	// Without a length, short and long.
	for _, b := range [][]byte{blob[:len(blob)-1], append(bytes.Clone(blob), 0)} {
		srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, blob) {
				return false
			}
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			if from > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
				w.WriteHeader(http.StatusPartialContent)
			}
			w.(http.Flusher).Flush()
			w.Write(b[from:])
			return true
		})
		requireRefused(t, s, ref, ErrCorrupt)
	}
	srv.setHook(nil)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
}

func TestHostile52Redirect(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "f", "x"))
	ref := srv.push("app", "x", want)
	for _, c := range []struct{ to, words string }{
		{"file:///etc/passwd", "only https and http"},
		{"gopher://example.com/", "only https and http"},
		{"http://169.254.169.254/latest/meta-data/", "metadata"},
		{"http://[fe80::1]/x", "metadata"},
		{"http://[fd00:ec2::254]/x", "metadata"},
		{"http://[::ffff:169.254.169.254]/x", "metadata"},
		{"http://100.100.100.200/x", "metadata"},
		{"http://metadata.google.internal/x", "metadata"},
		{srv.URL + "/loop", "more than 10 times"},
	} {
		for _, what := range []string{"/manifests/", "/blobs/" + string(digestOf(want.config)), "/blobs/" + string(digestOf(want.layers[0])), "/v2/"} {
			srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/loop" && !strings.Contains(r.URL.Path, what) {
					return false
				}
				w.Header().Set("Location", c.to)
				w.WriteHeader(http.StatusTemporaryRedirect)
				return true
			})
			s := newStore(t)
			_, err := s.Pull(t.Context(), ref, PullOptions{})
			require.Error(t, err, "%s for %s", c.to, what)
			if what != "/v2/" { // the login asks with a client of its own
				require.ErrorContains(t, err, c.words, "%s for %s", c.to, what)
				require.ErrorIs(t, err, ErrUnsupported)
			}
			requireEmpty(t, s)
		}
	}
	// A name that resolves to such an address is caught when dialling.
	g := newGuard("registry.example", false)
	_, err := g.dial(t.Context(), "tcp", "169.254.169.254:80")
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = g.dial(t.Context(), "tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = g.dial(t.Context(), "tcp", "localhost:1")
	require.ErrorIs(t, err, ErrUnsupported)
}
