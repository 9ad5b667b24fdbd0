package runtime

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

func newRuntime(t testing.TB) *Runtime {
	t.Helper()
	rt, err := New(Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Close()) })
	return rt
}

func kept() BoxOptions {
	return BoxOptions{KeepOnStop: true, Labels: map[string]string{"a": "b"}}
}

// TestLifecycle is the part of a box's life that needs no guest.
func TestLifecycle(t *testing.T) {
	rt, ctx := newRuntime(t), t.Context()
	box, err := rt.Create(ctx, kept(), "one")
	require.NoError(t, err)
	require.Equal(t, "one", box.Name())
	for _, key := range []string{"one", string(box.ID()), strings.ToLower(string(box.ID())[:20])} {
		i, err := rt.GetInfo(ctx, key)
		require.NoError(t, err, key)
		require.Equal(t, box.ID(), i.ID)
		require.Equal(t, StatusConfigured, i.Status)
		require.Equal(t, DefaultImage, i.Image)
		require.Equal(t, DefaultCPUs, i.CPUs)
		require.Equal(t, DefaultMemoryMiB, i.MemoryMiB)
		require.Equal(t, map[string]string{"a": "b"}, i.Labels)
		require.Zero(t, i.PID)
		there, err := rt.Exists(ctx, key)
		require.NoError(t, err)
		require.True(t, there)
	}
	s, err := box.State(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, s.Status)
	require.True(t, IsContainerID(string(s.ContainerID)))
	require.NotEmpty(t, s.LockID)

	_, err = rt.Create(ctx, kept(), "one")
	require.ErrorIs(t, err, ErrAlreadyExists)
	other, err := rt.Create(ctx, kept(), "two")
	require.NoError(t, err)
	require.ErrorIs(t, rt.Rename(ctx, "two", "one"), ErrAlreadyExists)
	require.ErrorIs(t, rt.Rename(ctx, "two", "not a name"), ErrInvalidArgument)
	require.ErrorIs(t, rt.Rename(ctx, "none", "three"), ErrNotFound)
	require.NoError(t, rt.Rename(ctx, "two", "two"), "its own name")
	require.NoError(t, rt.Rename(ctx, "two", "three"))
	got, err := rt.Get(ctx, "three")
	require.NoError(t, err)
	require.Equal(t, other.ID(), got.ID())
	there, err := rt.Exists(ctx, "two")
	require.NoError(t, err)
	require.False(t, there)

	list, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, other.ID(), list[0].ID, "newest first")
	require.NoError(t, box.Stop(ctx), "of a box that does not run")
	require.NoError(t, rt.Remove(ctx, "one", false))
	require.ErrorIs(t, rt.Remove(ctx, "one", false), ErrNotFound)

	var kinds []string
	for e, err := range rt.Events(ctx, EventOptions{}) {
		require.NoError(t, err)
		kinds = append(kinds, string(e.Kind)+" "+e.Name)
	}
	require.Equal(t, []string{"create one", "create two", "rename three", "destroy one"}, kinds)
	for e, err := range rt.Events(ctx, EventOptions{Box: string(box.ID()), Kinds: []EventKind{EventDestroy}}) {
		require.NoError(t, err)
		require.Equal(t, box.ID(), e.BoxID)
		require.Equal(t, EventDestroy, e.Kind)
	}
	m, err := rt.Metrics(ctx)
	require.NoError(t, err)
	require.Equal(t, RuntimeMetrics{BoxesCreatedTotal: 2}, m)
}

// TestEventsFollow has one runtime see what another does.
func TestEventsFollow(t *testing.T) {
	rt := newRuntime(t)
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = other.Create(ctx, kept(), "before")
	require.NoError(t, err)
	n := 0
	for e, err := range rt.Events(ctx, EventOptions{Follow: true, Since: time.Unix(1, 0)}) {
		if n == 3 {
			require.ErrorIs(t, err, context.Canceled)
			break
		}
		require.NoError(t, err)
		switch n++; n {
		case 1:
			require.Equal(t, "before", e.Name)
			_, err = other.Create(ctx, kept(), "elsewhere")
		case 2:
			require.Equal(t, "elsewhere", e.Name)
			_, err = rt.Create(ctx, kept(), "here")
		case 3:
			require.Equal(t, "here", e.Name)
			cancel()
		}
		require.NoError(t, err)
	}
	require.Equal(t, 3, n)
}

// homeDB is the state as SQLite sees it.
func homeDB(t testing.TB, home string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(home, "boxlite.db"))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// TestHostReboot has a box run when the host goes down.
func TestHostReboot(t *testing.T) {
	rt, ctx := newRuntime(t), t.Context()
	box, err := rt.Create(ctx, kept(), "")
	require.NoError(t, err)
	// Its pid is that of a process which runs now, but another one.
	_, err = homeDB(t, rt.HomeDir()).Exec("UPDATE boxes SET status = 'running', pid = ?, pid_start = 1, boot_id = 'another'", os.Getpid())
	require.NoError(t, err)
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusStopped, i.Status)
	require.Contains(t, i.Reason, "the host went down")
	require.Zero(t, i.PID)
}

// TestNewerState leaves a home of a newer version as it is.
func TestNewerState(t *testing.T) {
	rt, ctx := newRuntime(t), t.Context()
	_, err := rt.Create(ctx, kept(), "")
	require.NoError(t, err)
	home := rt.HomeDir()
	require.NoError(t, rt.Close())
	_, err = homeDB(t, home).Exec("PRAGMA user_version = 999")
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(home, "boxlite.db"))
	require.NoError(t, err)
	again, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer again.Close()
	_, err = again.ListInfo(ctx)
	require.ErrorIs(t, err, ErrDatabase)
	require.ErrorContains(t, err, "newer version")
	require.ErrorContains(t, err, "schema 999")
	after, err := os.ReadFile(filepath.Join(home, "boxlite.db"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// stressEnv makes this test binary one of the processes of TestManyProcesses.
const stressEnv = "BOXLITE_TEST_STRESS_HOME"

const stressOperations = 50

// stress does random things to the boxes of a home. Its output says what it has made.
func stress(home string) error {
	ctx := context.Background()
	rt, err := New(Options{HomeDir: home})
	if err != nil {
		return err
	}
	defer rt.Close()
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 3))
	name := func() string { return fmt.Sprint("box-", r.IntN(12)) } // others use them too
	created := 0
	for range stressOperations {
		err := error(nil)
		switch r.IntN(6) {
		case 0, 1:
			if _, err = rt.Create(ctx, kept(), name()); err == nil {
				created++
			}
		case 2:
			err = rt.Rename(ctx, name(), name())
		case 3:
			_, err = rt.GetInfo(ctx, name())
		case 4:
			_, err = rt.ListInfo(ctx)
		case 5:
			err = rt.Remove(ctx, name(), true)
		}
		rt.counter.add("", "stress", 1)
		if err != nil && !errors.Is(err, ErrAlreadyExists) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	fmt.Println(created)
	return nil
}

// TestManyProcesses has 16 processes do 50 random things each to one home, and
// looks whether it is whole afterwards.
func TestManyProcesses(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	home := t.TempDir()
	const processes = 16
	var all sync.WaitGroup
	made := make([]int, processes)
	for i := range processes {
		all.Go(func() {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), stressEnv+"="+home)
			var errs strings.Builder
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("%v: %s", err, &errs)
				return
			}
			if made[i], err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	db := homeDB(t, home)
	var verdict string
	require.NoError(t, db.QueryRow("PRAGMA integrity_check").Scan(&verdict))
	require.Equal(t, "ok", verdict)
	var counted int
	require.NoError(t, db.QueryRow("SELECT value FROM counters WHERE box = '' AND name = 'stress'").Scan(&counted))
	require.Equal(t, processes*stressOperations, counted)

	rt, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer rt.Close()
	sum := 0
	for _, n := range made {
		sum += n
	}
	m, err := rt.Metrics(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, sum, m.BoxesCreatedTotal)
	boxes, err := rt.ListInfo(t.Context())
	require.NoError(t, err)
	names := map[string]bool{}
	for _, b := range boxes {
		require.False(t, names[b.Name], "two boxes are called %s", b.Name)
		names[b.Name] = true
		require.Equal(t, StatusConfigured, b.Status)
	}
	folders, err := os.ReadDir(filepath.Join(home, "boxes"))
	require.NoError(t, err)
	for _, f := range folders {
		_, err := rt.GetInfo(t.Context(), f.Name())
		require.NoError(t, err, "a folder without a box")
	}
	created, destroyed := 0, 0
	for e, err := range rt.Events(t.Context(), EventOptions{}) {
		require.NoError(t, err)
		switch e.Kind {
		case EventCreate:
			created++
		case EventDestroy:
			destroyed++
		}
	}
	require.Equal(t, sum, created)
	require.Equal(t, sum-destroyed, len(boxes))
}
