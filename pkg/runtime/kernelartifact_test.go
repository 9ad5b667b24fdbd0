package runtime

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets/artifact"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// loopback is a registry of the test's own. What hook returns true for it has
// answered itself.
type loopback struct {
	host string
	gets atomic.Int64 // of blobs
	mu   sync.Mutex
	hook func(w http.ResponseWriter, r *http.Request) bool
}

func newLoopback(t testing.TB) *loopback {
	l := &loopback{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		hook := l.hook
		l.mu.Unlock()
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			l.gets.Add(1)
		}
		if hook == nil || !hook(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	l.host = strings.TrimPrefix(srv.URL, "http://")
	return l
}

func (l *loopback) answer(hook func(w http.ResponseWriter, r *http.Request) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = hook
}

func newTestRuntime(t testing.TB, edits ...func(*Options)) *Runtime {
	t.Helper()
	o := Options{HomeDir: filepath.Join(t.TempDir(), "home")}
	for _, e := range edits {
		e(&o)
	}
	rt, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Close()) })
	return rt
}

// kernelLayout writes an artifact whose kernel says what.
func kernelLayout(t testing.TB, what string) (dir, digest string) {
	t.Helper()
	dir = t.TempDir()
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	file := func(s string) artifact.File { return artifact.File{Zstd: z.EncodeAll([]byte(s), nil), Sum: "0"} }
	digest, err = artifact.WriteLayout(dir, "v9.9", []artifact.Build{
		{Arch: oci.DefaultPlatform().Architecture, Kernel: file("kernel " + what), Initramfs: file("initramfs " + what)},
		{Arch: "s390x", Kernel: file("other"), Initramfs: file("other")},
	})
	require.NoError(t, err)
	return dir, digest
}

func pinTo(t testing.TB, repository, digest string) {
	old := releasePin
	releasePin = kernelPin{repository, digest}
	t.Cleanup(func() { releasePin = old })
}

func requireKernel(t testing.TB, i *assets.Installed, what string) {
	t.Helper()
	for _, a := range []assets.Asset{assets.Kernel, assets.Initramfs} {
		path, ok := i.Find(a)
		require.True(t, ok)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(string(b), " "+what), "%s", b)
	}
}

func requireNoKernels(t testing.TB, home string) {
	t.Helper()
	all, err := assets.List(home)
	require.NoError(t, err)
	require.Empty(t, all)
}

// The release's artifact is pulled once for any number of runtimes, from its own
// place or a mirror, and never again.
func TestKernelArtifactIsPulledOnce(t *testing.T) {
	reg := newLoopback(t)
	layout, digest := kernelLayout(t, "one")
	pinTo(t, "registry.invalid/boxlite/kernel", digest)
	home := filepath.Join(t.TempDir(), "home")
	var events atomic.Int64
	open := func(o *Options) {
		o.HomeDir, o.KernelImage = home, reg.host+"/mirror/of/kernel"
		o.Progress = func(e oci.Event) {
			if e.Layer != "" {
				events.Add(1)
			}
		}
	}
	rt := newTestRuntime(t, open)
	got, err := rt.PushKernel(t.Context(), "oci:"+layout, reg.host+"/mirror/of/kernel:v9.9")
	require.NoError(t, err)
	require.Equal(t, digest, got, "the very bytes")

	reg.gets.Store(0)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for n := range errs {
		rt := newTestRuntime(t, open)
		wg.Go(func() {
			var i *assets.Installed
			if i, errs[n] = rt.kernelArtifact(context.Background(), assets.ErrMissing); errs[n] == nil {
				requireKernel(t, i, "one")
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, reg.gets.Load(), "kernel and initramfs, each once")
	require.NotZero(t, events.Load())

	reg.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	i, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
	require.NoError(t, err)
	requireKernel(t, i, "one")
	left, err := os.ReadDir(assets.InstallDir(home))
	require.NoError(t, err)
	require.Empty(t, left)
	kernels, err := rt.Kernels(t.Context())
	require.NoError(t, err)
	require.Equal(t, digest, kernels[len(kernels)-1].Digest)
	require.Equal(t, "v9.9", kernels[len(kernels)-1].Version)
}

func TestKernelArtifactThatIsNotTheRelease(t *testing.T) {
	reg := newLoopback(t)
	layout, digest := kernelLayout(t, "one")
	_, other := kernelLayout(t, "two")
	ref := reg.host + "/kernel"
	rt := newTestRuntime(t, func(o *Options) { o.KernelImage = ref })
	_, err := rt.PushKernel(t.Context(), "oci:"+layout, ref+":latest")
	require.NoError(t, err)
	want := digest[7:]

	t.Run("another digest asked for", func(t *testing.T) {
		pinTo(t, "", digest)
		rt := newTestRuntime(t, func(o *Options) { o.KernelImage = ref + "@" + other })
		_, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, digest)
	})
	t.Run("another digest in a layout", func(t *testing.T) {
		pinTo(t, "", other)
		rt := newTestRuntime(t, func(o *Options) { o.KernelImage = "oci:" + layout })
		_, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.ErrorIs(t, err, oci.ErrCorrupt)
		requireNoKernels(t, rt.HomeDir())
	})
	t.Run("a registry that sends something else", func(t *testing.T) {
		pinTo(t, "", digest)
		reg.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, want) {
				io.WriteString(w, `{"schemaVersion":2}`)
				return true
			}
			return false
		})
		_, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.ErrorIs(t, err, oci.ErrCorrupt)
		requireNoKernels(t, rt.HomeDir())
	})
	t.Run("a blob that ends early", func(t *testing.T) {
		pinTo(t, "", digest)
		reg.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				w.Header().Set("Content-Length", "3")
				io.WriteString(w, "abc")
				return true
			}
			return false
		})
		_, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.ErrorIs(t, err, oci.ErrCorrupt)
		requireNoKernels(t, rt.HomeDir())
	})
	t.Run("a blob of other bytes", func(t *testing.T) {
		pinTo(t, "", digest)
		reg.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			b, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", filepath.Base(strings.ReplaceAll(r.URL.Path, "sha256:", ""))))
			if err != nil {
				t.Error(err)
			}
			b[len(b)-1] ^= 1 // zstd's checksum, or the end of the data
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			w.Write(b)
			return true
		})
		_, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.ErrorIs(t, err, oci.ErrCorrupt)
		requireNoKernels(t, rt.HomeDir())
	})
	t.Run("mended", func(t *testing.T) {
		pinTo(t, "", digest)
		reg.answer(nil)
		i, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.NoError(t, err)
		requireKernel(t, i, "one")
	})
}

// Without network the error says what to do; without a pin too.
func TestKernelArtifactOffline(t *testing.T) {
	_, digest := kernelLayout(t, "one")
	srv := httptest.NewServer(nil)
	host := strings.TrimPrefix(srv.URL, "http://")
	srv.Close() // nobody listens there any more
	for name, pin := range map[string]kernelPin{"released": {host + "/kernel", digest}, "between releases": {}} {
		t.Run(name, func(t *testing.T) {
			pinTo(t, pin.repository, pin.digest)
			rt := newTestRuntime(t)
			_, err := rt.kernelArtifact(t.Context(), fmt.Errorf("guest kernel is %w", assets.ErrMissing))
			require.ErrorIs(t, err, ErrConfig)
			require.ErrorContains(t, err, "`make`")
			require.ErrorContains(t, err, "`boxlite kernel install REF`")
			require.ErrorContains(t, err, "guest kernel is")
			require.NotContains(t, err.Error(), "\n")
			requireNoKernels(t, rt.HomeDir())
		})
	}
}

// Between releases the artifact installed last is taken; a released version
// takes its own.
func TestInstallKernel(t *testing.T) {
	pinTo(t, "", "")
	one, digestOne := kernelLayout(t, "one")
	two, digestTwo := kernelLayout(t, "two")
	rt := newTestRuntime(t)
	_, err := rt.InstallKernel(t.Context(), "")
	require.ErrorIs(t, err, ErrInvalidArgument)
	_, err = rt.InstallKernel(t.Context(), "oci:"+t.TempDir())
	require.ErrorIs(t, err, ErrNotFound)

	// Somebody was killed while installing.
	junk := filepath.Join(assets.InstallDir(rt.HomeDir()), "new")
	require.NoError(t, os.MkdirAll(junk, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(junk, "vmlinux"), []byte("half"), 0o600))
	for _, c := range []struct{ dir, digest, what string }{{one, digestOne, "one"}, {two, digestTwo, "two"}, {one, digestOne, "one"}} {
		info, err := rt.InstallKernel(t.Context(), "oci:"+c.dir)
		require.NoError(t, err)
		require.Equal(t, c.digest, info.Digest)
		i, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
		require.NoError(t, err)
		requireKernel(t, i, c.what)
	}
	pinTo(t, "", digestTwo)
	i, err := rt.kernelArtifact(t.Context(), assets.ErrMissing)
	require.NoError(t, err)
	requireKernel(t, i, "two")

	// A damaged installation is not taken for one.
	require.NoError(t, os.Truncate(filepath.Join(i.Dir, "artifact.json"), 3))
	_, err = rt.InstallKernel(t.Context(), "oci:"+two)
	require.NoError(t, err)
	i, err = rt.kernelArtifact(t.Context(), assets.ErrMissing)
	require.NoError(t, err)
	requireKernel(t, i, "two")
}

// An image is not a kernel.
func TestInstallOfAnImage(t *testing.T) {
	reg := newLoopback(t)
	rt := newTestRuntime(t)
	ref := pushImage(t, rt, reg, "app:x", "text")
	_, err := rt.InstallKernel(t.Context(), ref)
	require.ErrorIs(t, err, oci.ErrUnsupported)
	require.ErrorContains(t, err, artifact.Type)
}
