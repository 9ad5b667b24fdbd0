package oci

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/stretchr/testify/require"
)

func isBlob(r *http.Request, b []byte) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+string(digestOf(b)))
}

// A connection that breaks in the middle of a blob is continued with Range;
// a registry that ignores Range sends everything and is put up with.
func TestCutMidBlob(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			srv := newServer(t)
			want := imageOf(t, nil, tarOf(t, "f", noise(1, 1<<20)))
			ref := srv.push("app", "x", want)
			blob := want.layers[0]
			var cuts atomic.Int32
			srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
				if !isBlob(r, blob) {
					return false
				}
				if n := int(cuts.Add(1)); n <= 3 {
					from := 0
					if s := r.Header.Get("Range"); ranges && s != "" {
						from, _ = strconv.Atoi(strings.Split(strings.TrimPrefix(s, "bytes="), "-")[0])
						w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
						w.Header().Set("Content-Length", fmt.Sprint(len(blob)-from))
						w.WriteHeader(http.StatusPartialContent)
						w.Write(blob[from : from+100<<10])
						w.(http.Flusher).Flush()
						panic(http.ErrAbortHandler)
					}
					cut(w, blob, n*200<<10)
				}
				if !ranges {
					r.Header.Del("Range")
				}
				return false
			})
			s := newStore(t)
			img, err := s.Pull(t.Context(), ref, PullOptions{})
			require.NoError(t, err)
			require.EqualValues(t, 4, cuts.Load())
			requireContents(t, s, img, noise(1, 1<<20))
			requireClean(t, s)
		})
	}
}

func TestStall(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "f", noise(1, 1<<20)))
	ref := srv.push("app", "x", want)
	var stalls atomic.Int32
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, want.layers[0]) || stalls.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(want.layers[0])))
		w.Write(want.layers[0][:500<<10])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	s := newStore(t, func(o *Options) { o.StallTimeout = 2 * time.Second })
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, stalls.Load(), int32(2))
	require.NotEmpty(t, srv.ranges())

	// For good.
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	s = newStore(t, func(o *Options) { o.StallTimeout = 50 * time.Millisecond; o.Retries = 1 })
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, srv.host())
	require.ErrorContains(t, err, "50ms")
}

func TestPassingTrouble(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			srv := newServer(t)
			ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", "x")))
			seen := map[string]int{}
			srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
				srv.mu.Lock()
				seen[r.URL.Path]++
				n := seen[r.URL.Path]
				srv.mu.Unlock()
				if n > 2 {
					return false
				}
				w.WriteHeader(status)
				return true
			})
			s := newStore(t)
			_, err := s.Pull(t.Context(), ref, PullOptions{})
			require.NoError(t, err)
			requireClean(t, s)

			srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(status)
				return true
			})
			s = newStore(t)
			_, err = s.Pull(t.Context(), ref, PullOptions{})
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorContains(t, err, srv.host())
			require.ErrorContains(t, err, fmt.Sprint(status))
		})
	}
}

// basicAuth lets only user:secret in.
func basicAuth(w http.ResponseWriter, r *http.Request) bool {
	if u, p, _ := r.BasicAuth(); u == "user" && p == "secret" {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

// tokenAuth hands out tokens, for user:secret alone, and wants one.
func tokenAuth(srv *server) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			if r.URL.Query().Get("scope") != "repository:app:pull" {
				w.WriteHeader(http.StatusBadRequest)
				return true
			}
			json.NewEncoder(w).Encode(map[string]string{"token": "let-me-in"})
			return true
		}
		if r.Header.Get("Authorization") == "Bearer let-me-in" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+srv.URL+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestLogin(t *testing.T) {
	for _, kind := range []string{"basic", "token"} {
		t.Run(kind, func(t *testing.T) {
			srv := newServer(t)
			ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", "x")))
			srv.setHook(basicAuth)
			if kind == "token" {
				srv.setHook(tokenAuth(srv))
			}
			// What docker login writes, found the default way.
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
			t.Setenv("XDG_RUNTIME_DIR", home)
			t.Setenv("REGISTRY_AUTH_FILE", "")
			login := func(file, password string) {
				auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
				require.NoError(t, os.WriteFile(file, []byte(`{"auths":{"`+srv.host()+`":{"auth":"`+auth+`"}}}`), 0o600))
			}
			s := newStore(t, func(o *Options) { o.Keychain = nil })
			_, err := s.Pull(t.Context(), ref, PullOptions{})
			require.ErrorIs(t, err, ErrUnauthorized)
			require.ErrorContains(t, err, "log in with `docker login "+srv.host()+"`")

			docker := filepath.Join(home, ".docker", "config.json")
			login(docker, "wrong")
			_, err = s.Pull(t.Context(), ref, PullOptions{})
			require.ErrorIs(t, err, ErrUnauthorized)
			require.ErrorContains(t, err, "stored credentials")
			requireEmpty(t, s)

			login(docker, "secret")
			_, err = s.Pull(t.Context(), ref, PullOptions{})
			require.NoError(t, err)

			// podman login's file, where docker has none.
			require.NoError(t, os.Remove(docker))
			login(filepath.Join(home, "containers", "auth.json"), "secret")
			_, err = s.Pull(t.Context(), ref, PullOptions{Policy: PullAlways})
			require.NoError(t, err)
		})
	}
}

func TestCredentialHelper(t *testing.T) {
	srv := newServer(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", "x")))
	srv.setHook(basicAuth)
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"),
		[]byte("#!/bin/sh\necho '{\"ServerURL\":\"x\",\"Username\":\"user\",\"Secret\":\"secret\"}'\n"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"`+srv.host()+`":"test"}}`), 0o600))
	s := newStore(t, func(o *Options) { o.Keychain = nil })
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
}

// Credentials are for the registry alone, wherever it sends us.
func TestCredentialsStayAtHome(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "f", "x"))
	ref := srv.push("app", "x", want)
	var leaked atomic.Bool
	other := newServer(t)
	other.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		w.Write(want.layers[0])
		return true
	})
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if basicAuth(w, r) {
			return true
		}
		if isBlob(r, want.layers[0]) {
			http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	s := newStore(t, func(o *Options) {
		o.Keychain = keychain{authn.FromConfig(authn.AuthConfig{Username: "user", Password: "secret"})}
	})
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.False(t, leaked.Load())
}

type keychain struct{ authn.Authenticator }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) { return k.Authenticator, nil }

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	l.Close()
	s := newStore(t)
	_, err = s.Pull(t.Context(), addr+"/app", PullOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, addr)
	require.ErrorContains(t, err, "connection refused")

	_, err = s.Pull(t.Context(), "no-such-registry.invalid/app", PullOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "no-such-registry.invalid")
}

func TestUnknownImage(t *testing.T) {
	srv := newServer(t)
	srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", "x")))
	s := newStore(t)
	for _, name := range []string{"/app:other", "/nothing"} {
		_, err := s.Pull(t.Context(), srv.host()+name, PullOptions{})
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, srv.host()+name)
		require.ErrorContains(t, err, "check name and tag")
	}
}

func TestRegistryLacksBlob(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "f", "x"))
	srv.putBlob("app", want.config)
	srv.putManifest("app", "x", typeOCIManifest, want.manifest)
	s := newStore(t)
	_, err := s.Pull(t.Context(), srv.host()+"/app:x", PullOptions{})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "lacks blob "+string(digestOf(want.layers[0])))
	requireClean(t, s)
}

// What an earlier attempt left is checked with everything else: if it is
// damaged, the blob is fetched from the start.
func TestDamagedPartial(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "f", noise(1, 1<<20)))
	ref := srv.push("app", "x", want)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"zeros, as after a power cut", make([]byte, 300<<10)},
		{"another's bytes", []byte(noise(9, 300<<10))},
		{"too long", []byte(noise(9, 2<<20))},
		{"wrong at the end", append(append([]byte(nil), want.layers[0][:len(want.layers[0])-8]...), 0, 0, 0, 0, 0, 0, 0, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			require.NoError(t, os.WriteFile(s.partialPath(digestOf(want.layers[0])), c.data, 0o600))
			img, err := s.Pull(t.Context(), ref, PullOptions{})
			require.NoError(t, err)
			requireContents(t, s, img, noise(1, 1<<20))
			requireClean(t, s)
		})
	}
	s := newStore(t)
	half := len(want.layers[0]) / 2
	require.NoError(t, os.WriteFile(s.partialPath(digestOf(want.layers[0])), want.layers[0][:half], 0o600))
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Contains(t, srv.ranges(), fmt.Sprintf("bytes=%d-%d", half, len(want.layers[0])-1))
}

func TestSentinels(t *testing.T) {
	err := fail(ErrCorrupt, "layer: %w", os.ErrPermission)
	require.Equal(t, "layer: permission denied", err.Error())
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, err, os.ErrPermission)
	var k *kindError
	require.True(t, errors.As(err, &k))
}
