package oci

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/stretchr/testify/require"
)

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

func TestPull(t *testing.T) {
	srv := newServer(t)
	body := noise(1, 100<<10)
	want := imageOf(t, nil,
		tarOf(t, "etc/", "", "etc/hello", "hello from the base"),
		tarOf(t, "big", body),
		tarOf(t, "etc/third", "not compressed"))
	ref := srv.push("team/app", "v1", want)
	s := newStore(t)

	_, err := s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)

	var events []Event
	img, err := s.Pull(t.Context(), ref, PullOptions{Progress: func(e Event) { events = append(events, e) }})
	require.NoError(t, err)
	require.Equal(t, ref, img.Reference)
	require.Equal(t, want.digest(), img.Digest)
	require.Equal(t, digestOf(want.config), img.ConfigDigest)
	require.Equal(t, DefaultPlatform(), img.Platform)
	require.Equal(t, time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), img.Created)
	require.Equal(t, Config{User: "1:2", Env: []string{"A=b"}, Entrypoint: []string{"/e"}, Cmd: []string{"sh"},
		WorkingDir: "/w", StopSignal: "SIGINT", ExposedPorts: []string{"80/tcp"}, Volumes: []string{"/v"},
		Labels: map[string]string{"l": "v"}}, img.Config)
	require.Len(t, img.Layers, 3)
	requireContents(t, s, img, "hello from the base", body, "not compressed")
	requireClean(t, s)

	last := map[Digest]Event{}
	for _, e := range events {
		require.Equal(t, ref, e.Reference)
		last[e.Layer] = e
	}
	require.Equal(t, Resolving, events[0].State)
	require.Equal(t, Done, last[""].State)
	for _, l := range img.Layers {
		require.Equal(t, Done, last[l.Digest].State)
		require.Equal(t, l.Size, last[l.Digest].Current)
	}

	got, err := s.Resolve(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, img, got)
	var listed []Image
	for i, err := range s.Images(t.Context()) {
		require.NoError(t, err)
		listed = append(listed, i)
	}
	require.Equal(t, []Image{img}, listed)

	// By digest too, and the registry may be gone for what is there.
	pinned := srv.host() + "/team/app@" + string(want.digest())
	byDigest, err := s.Pull(t.Context(), pinned, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, img.Layers, byDigest.Layers)
	for _, l := range img.Layers {
		require.Equal(t, 1, srv.count(l.Digest), "layers are fetched once")
	}
	srv.Close()
	again, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, img, again)
	_, err = s.Pull(t.Context(), ref, PullOptions{Policy: PullAlways})
	require.ErrorIs(t, err, ErrUnavailable)
	_, err = s.Pull(t.Context(), srv.host()+"/other", PullOptions{Policy: PullNever})
	require.ErrorIs(t, err, ErrNotFound)

	_, err = s.Remove(t.Context(), ref, RemoveOptions{})
	require.NoError(t, err)
	_, err = s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Remove(t.Context(), ref, RemoveOptions{})
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Resolve(t.Context(), pinned)
	require.NoError(t, err, "another name of the same image stays")
}

func TestPullAlwaysFollowsTheTag(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	base := tarOf(t, "f", "the base")
	ref := srv.push("app", "latest", imageOf(t, nil, base, tarOf(t, "g", "one")))
	first, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	srv.push("app", "latest", imageOf(t, nil, base, tarOf(t, "g", "two")))
	same, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, first.Digest, same.Digest)
	second, err := s.Pull(t.Context(), ref, PullOptions{Policy: PullAlways})
	require.NoError(t, err)
	require.NotEqual(t, first.Digest, second.Digest)
	require.Equal(t, first.Layers[0], second.Layers[0])
	require.Equal(t, 1, srv.count(first.Layers[0].Digest))
	requireContents(t, s, second, "two")
	requireContents(t, s, first, "one")
}

func TestSearchRegistries(t *testing.T) {
	one, two := newServer(t), newServer(t)
	s := newStore(t, func(o *Options) { o.Registries = []string{one.host(), two.host() + "/mirror"} })
	two.push("mirror/tool", "latest", imageOf(t, nil, tarOf(t, "f", "x")))
	img, err := s.Pull(t.Context(), "tool", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, two.host()+"/mirror/tool:latest", img.Reference)
	got, err := s.Resolve(t.Context(), "tool:latest")
	require.NoError(t, err)
	require.Equal(t, img, got)

	_, err = s.Pull(t.Context(), "nothing", PullOptions{})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, one.host())
	require.ErrorContains(t, err, two.host())
	require.NotContains(t, err.Error(), "\n")
}

func TestPullConcurrently(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "a", noise(2, 300<<10)), tarOf(t, "b", noise(3, 300<<10)), tarOf(t, "c", "c"))
	ref := srv.push("app", "x", want)
	s := newStore(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Pull(context.Background(), ref, PullOptions{}) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for _, l := range append(want.layers, want.config) {
		require.Equal(t, 1, srv.count(digestOf(l)))
	}
	requireClean(t, s)
}

func TestSameLayerTwice(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	l := tarOf(t, "f", noise(4, 10<<10))
	ref := srv.push("app", "x", imageOf(t, nil, l, tarOf(t, "f", "short"), l))
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Len(t, img.Layers, 3)
	requireContents(t, s, img)
}

// A layer that is compressed differently is still the same layer.
func TestLayerSharedAcrossCompression(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	l, x := tarOf(t, "f", noise(5, 10<<10)), tarOf(t, "x", "x")
	first, err := s.Pull(t.Context(), srv.push("app", "gzip", imageOf(t, nil, l, x)), PullOptions{})
	require.NoError(t, err)
	second := imageOf(t, nil, x, l)
	img, err := s.Pull(t.Context(), srv.push("app", "zstd", second), PullOptions{})
	require.NoError(t, err)
	require.NotEqual(t, first.Layers[0].Digest, img.Layers[1].Digest)
	require.Zero(t, srv.count(img.Layers[1].Digest))
}

func TestLostFilesAreFetchedAgain(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", noise(6, 10<<10))))
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.NoError(t, os.Remove(s.layerBlob(img.Layers[0].DiffID)))
	_, err = s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Rootfs(t.Context(), img, nil)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	// A record cut short by hand is as good as none.
	record := s.refPath(img.Reference, img.Platform)
	require.NoError(t, os.Chmod(record, 0o600))
	require.NoError(t, os.Truncate(record, 10))
	_, err = s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)
	// A damaged blob too.
	require.NoError(t, os.Chmod(s.blobPath(img.ConfigDigest), 0o600))
	require.NoError(t, os.WriteFile(s.blobPath(img.ConfigDigest), []byte("{}"), 0o600))
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
}

func TestNoSpace(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	want := imageOf(t, nil, tarOf(t, "f", noise(7, 1<<20)))
	ref := srv.push("app", "x", want)
	s.freeSpace = func() int64 { return 1 << 18 }
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorContains(t, err, "1.0 MiB needed, 256.0 KiB free")
	require.Zero(t, srv.count(digestOf(want.layers[0])))
	requireEmpty(t, s)

	// The disk fills up on the way, as writes tell.
	err = s.diskError(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, 5<<20)
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, "no space left in "+s.root+": 256.0 KiB free, about 5.0 MiB more needed"+helpSpace, err.Error())
	require.NoError(t, s.diskError(nil, 1))
	require.Equal(t, os.ErrClosed, s.diskError(os.ErrClosed, 1))
}

func TestCancel(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	want := imageOf(t, nil, tarOf(t, "f", noise(8, 1<<20)))
	ref := srv.push("app", "x", want)
	ctx, cancel := context.WithCancel(t.Context())
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(digestOf(want.layers[0]))) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(want.layers[0])))
		w.Write(want.layers[0][:4096])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	})
	_, err := s.Pull(ctx, ref, PullOptions{})
	require.ErrorIs(t, err, context.Canceled)
	requireEmpty(t, s)
	srv.setHook(nil)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	requireClean(t, s)
}
