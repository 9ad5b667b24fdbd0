package runtime

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyEnv makes this test binary one of many processes that work on a home; see
// manyWork.
const manyEnv = "BOXLITE_TEST_MANY_HOME"

const (
	manyProcesses  = 16
	manyOperations = 50
)

// manyResult is what one of the processes has to tell.
type manyResult struct {
	Created, Renamed int
	Kept             int // of Created, those with KeepOnStop
}

// manyWork does random operations on boxes that all processes know by the same few
// names. Errors that are right where others do the same at once are none.
func manyWork(home string) error {
	ctx := context.Background()
	// All begin together: the first thing they do is to make the home and its state.
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	rt, err := New(Options{HomeDir: home})
	if err != nil {
		return err
	}
	var did manyResult
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 7))
	name := func() string { return fmt.Sprint("box", r.IntN(20)) }
	for i := range manyOperations {
		var op string
		var err error
		switch key := name(); r.IntN(8) {
		case 0, 1:
			keep := r.IntN(4) > 0
			op = "create " + key
			if _, err = rt.Create(ctx, BoxOptions{KeepOnStop: keep}, key); err == nil {
				did.Created++
				if keep {
					did.Kept++
				}
			}
		case 2:
			to := name()
			op = "rename " + key + " to " + to
			if err = rt.Rename(ctx, key, to); err == nil && to != key { // to its own name changes nothing
				did.Renamed++
			}
		case 3:
			op = "info " + key
			_, err = rt.GetInfo(ctx, key)
		case 4:
			op = "list"
			var list []BoxInfo
			list, err = rt.ListInfo(ctx)
			names := make(map[string]bool)
			for _, b := range list {
				if names[b.Name] {
					return fmt.Errorf("operation %d: two boxes have the name %s", i, b.Name)
				}
				names[b.Name] = true
			}
		case 5, 6:
			op = "remove " + key
			err = rt.Remove(ctx, key, r.IntN(2) == 0)
		case 7:
			op = "exists " + key
			_, err = rt.Exists(ctx, key)
		}
		if err != nil && !errors.Is(err, ErrAlreadyExists) && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("operation %d, %s: %w", i, op, err)
		}
	}
	// Half of them end as a killed program does.
	if os.Getpid()%2 == 0 {
		if err := rt.Close(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(did)
}

// TestManyProcesses lets many processes work on one new home at once, and looks
// whether what they say they did is what the home tells.
func TestManyProcesses(t *testing.T) {
	ctx, home := t.Context(), t.TempDir()
	var workers [manyProcesses]struct {
		cmd         *exec.Cmd
		out, errors bytes.Buffer
	}
	start, release, err := os.Pipe()
	require.NoError(t, err)
	for i := range workers {
		w := &workers[i]
		w.cmd = exec.CommandContext(ctx, os.Args[0])
		w.cmd.Env = append(os.Environ(), manyEnv+"="+home)
		w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = start, &w.out, &w.errors
		require.NoError(t, w.cmd.Start())
	}
	require.NoError(t, start.Close())
	require.NoError(t, release.Close())
	var sum manyResult
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range workers {
		w := &workers[i]
		wg.Go(func() {
			if err := w.cmd.Wait(); err != nil {
				t.Errorf("process %d: %v\n%s", i, err, w.errors.String())
				return
			}
			var did manyResult
			if err := json.Unmarshal(w.out.Bytes(), &did); err != nil {
				t.Errorf("process %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			sum.Created, sum.Renamed, sum.Kept = sum.Created+did.Created, sum.Renamed+did.Renamed, sum.Kept+did.Kept
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	require.Positive(t, sum.Renamed)
	require.Greater(t, sum.Created, sum.Kept)

	rt, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer rt.Close()
	left, err := rt.ListInfo(ctx) // which clears away the ephemeral boxes of processes that are gone
	require.NoError(t, err)
	require.NoError(t, rt.sweep(ctx))
	counts := make(map[EventKind]int)
	alive := make(map[string]string) // name by id, as the events tell it
	for e, err := range rt.Events(ctx, EventOptions{}) {
		require.NoError(t, err)
		counts[e.Kind]++
		old, known := alive[string(e.BoxID)]
		switch e.Kind {
		case EventCreate:
			require.False(t, known, "created twice")
			alive[string(e.BoxID)] = e.Name
		case EventRename:
			require.Equal(t, old, e.Attributes["oldName"])
			alive[string(e.BoxID)] = e.Name
		case EventDestroy:
			require.True(t, known, "destroyed twice, or before it was made")
			require.Equal(t, old, e.Name)
			delete(alive, string(e.BoxID))
		}
	}
	require.Equal(t, sum.Created, counts[EventCreate], "creates that were acknowledged")
	require.Equal(t, sum.Renamed, counts[EventRename], "renames that were acknowledged")
	require.Len(t, counts, 3, "no box was started")
	told := make(map[string]string)
	for _, b := range left {
		told[string(b.ID)] = b.Name
		require.Equal(t, StatusConfigured, b.Status)
	}
	require.Equal(t, alive, told, "the rows are what the events amount to")

	folders, err := os.ReadDir(filepath.Join(home, "boxes"))
	require.NoError(t, err)
	for _, f := range folders {
		require.Contains(t, told, f.Name(), "a folder without a box")
	}
	raw, err := sql.Open("sqlite", filepath.Join(home, "boxlite.db"))
	require.NoError(t, err)
	defer raw.Close()
	var verdict string
	require.NoError(t, raw.QueryRow("PRAGMA integrity_check").Scan(&verdict))
	require.Equal(t, "ok", verdict)
}
