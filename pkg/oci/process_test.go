package oci

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain lets the test binary stand in for other processes that pull.
func TestMain(m *testing.M) {
	if ref := os.Getenv("OCI_TEST_PULL"); ref != "" {
		os.Exit(pullInChild(os.Getenv("OCI_TEST_STORE"), ref))
	}
	goleak.VerifyTestMain(m)
}

func pullInChild(root, ref string) int {
	s, err := Open(root, Options{Keychain: anonymous{}, RetryDelay: time.Millisecond})
	if err == nil {
		_, err = s.Pull(context.Background(), ref, PullOptions{Progress: func(e Event) {
			fmt.Println(e.State, e.Current)
		}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func child(t testing.TB, s *Store, ref string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(exe)
	c.Env = append(os.Environ(), "OCI_TEST_PULL="+ref, "OCI_TEST_STORE="+s.root)
	c.Stderr = os.Stderr
	return c
}

// Eight processes, one image: each blob crosses the network once.
func TestProcessesShareAPull(t *testing.T) {
	srv := newServer(t)
	want := imageOf(t, nil, tarOf(t, "a", noise(1, 400<<10)), tarOf(t, "b", noise(2, 400<<10)), tarOf(t, "c", noise(3, 400<<10)))
	ref := srv.push("app", "x", want)
	s := newStore(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		c := child(t, s, ref)
		wg.Go(func() { errs[i] = c.Run() })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	for _, b := range append(want.layers, want.config) {
		require.Equal(t, 1, srv.count(digestOf(b)))
	}
	img, err := s.Resolve(t.Context(), ref)
	require.NoError(t, err)
	requireContents(t, s, img, noise(1, 400<<10), noise(2, 400<<10), noise(3, 400<<10))
	requireClean(t, s)
}

// A pull is killed without warning; the next one takes its lock, continues its
// download and clears its temporary files away.
func TestKilledPull(t *testing.T) {
	srv := newServer(t)
	body := noise(4, 512<<10)
	want := imageOf(t, nil, tarOf(t, "f", body))
	ref := srv.push("app", "x", want)
	blob := want.layers[0]
	half := len(blob) / 2
	gate := make(chan struct{})
	srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, blob) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob[:half])
		w.(http.Flusher).Flush()
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		return true
	})
	s := newStore(t)
	c := child(t, s, ref)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	require.Eventually(t, func() bool {
		st, err := os.Stat(s.partialPath(digestOf(blob)))
		return err == nil && st.Size() == int64(half)
	}, time.Minute, 5*time.Millisecond)
	tmp, err := os.ReadDir(s.path(tmpDir))
	require.NoError(t, err)
	require.NotEmpty(t, tmp, "a conversion is under way")

	// While it lives, another pull waits for it and says so, and does not
	// take its files for leftovers.
	waiting := make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Pull(ctx, ref, PullOptions{Progress: func(e Event) {
			if e.State == Waiting && e.Current == int64(half) {
				once.Do(func() { close(waiting) })
			}
		}})
		done <- err
	}()
	select {
	case <-waiting:
	case <-time.After(time.Minute):
		t.Error("the second pull does not tell that it waits")
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	still, err := os.ReadDir(s.path(tmpDir))
	require.NoError(t, err)
	require.Equal(t, len(tmp), len(still))

	require.NoError(t, c.Process.Kill())
	for sc := bufio.NewScanner(out); sc.Scan(); {
	}
	require.Error(t, c.Wait())
	close(gate)
	requireEmpty(t, s)
	_, err = s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)

	srv.setHook(nil)
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Contains(t, srv.ranges(), fmt.Sprintf("bytes=%d-%d", half, len(blob)-1))
	requireContents(t, s, img, body)
	requireClean(t, s)
}

func TestSweep(t *testing.T) {
	s := newStore(t)
	old := time.Now().Add(-2 * partialKept)
	write := func(dir, name string, when time.Time) string {
		p := s.path(dir, name)
		require.NoError(t, os.WriteFile(p, []byte("x"), 0o600))
		require.NoError(t, os.Chtimes(p, when, when))
		return p
	}
	dead, fresh, stale := write(tmpDir, "dead", time.Now()), write(partialDir, "fresh", time.Now()), write(partialDir, "stale", old)
	live, err := s.newTemp()
	require.NoError(t, err)
	busy, err := tryLock(write(partialDir, "busy", old))
	require.NoError(t, err)
	lock := s.path(partialDir, "lock")
	require.NoError(t, os.WriteFile(lock, nil, 0o600))
	s.clean()
	require.NoFileExists(t, lock)
	require.NoFileExists(t, dead)
	require.NoFileExists(t, stale)
	require.FileExists(t, fresh)
	require.FileExists(t, live.Name())
	require.FileExists(t, busy.Name())
	_, err = tryLock(busy.Name())
	require.ErrorIs(t, err, errLocked)
	busy.Close()
	dropTemp(live)
}

// A lock on a file that has been replaced guards nothing and is not given.
func TestLockFollowsTheName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	var mu sync.Mutex
	inside, total := 0, 0
	for range 8 {
		wg.Go(func() {
			for range 20 {
				f, err := lockWait(context.Background(), path, func() {})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				total++
				if inside != 1 {
					t.Errorf("%d hold the lock", inside)
				}
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				os.Remove(path)
				f.Close()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 160, total)
}

func TestStoreInTheWay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(filepath.Join(file, "images"), Options{})
	require.Error(t, err)
	require.True(t, strings.HasPrefix(err.Error(), "oci: "), err)
}
