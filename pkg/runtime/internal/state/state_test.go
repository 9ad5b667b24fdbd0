package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), path)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func newBox(name string) *Box {
	now := time.Now().Truncate(time.Microsecond)
	return &Box{
		ID: ulid.Make().String(), Name: name, CreatedAt: now, UpdatedAt: now, Options: []byte(`{"cpus":1}`),
		Image: "alpine", Status: "configured", PID: 12, PIDStart: 1<<63 + 5, BootID: BootID(), Ephemeral: true,
	}
}

func TestRoundTrip(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "a % b?#.db"))
	b := newBox("one")
	require.NoError(t, db.Insert(ctx, b))
	for _, key := range []string{b.ID, "one", b.ID[:20]} {
		got, err := db.Find(ctx, key)
		require.NoError(t, err, key)
		require.Equal(t, b, got)
	}
	code := -9
	at := time.Now().Truncate(time.Microsecond)
	got, err := db.Update(ctx, b.ID, func(b *Box) error { b.ExitCode, b.StartedAt, b.FinishedAt = &code, at, at; return nil })
	require.NoError(t, err)
	again, err := db.Find(ctx, b.ID)
	require.NoError(t, err)
	require.Equal(t, got, again)
	require.Equal(t, -9, *again.ExitCode)
	require.True(t, at.Equal(again.StartedAt))
	require.ErrorIs(t, db.Insert(ctx, newBox("one")), ErrExists)
	require.NoError(t, db.Insert(ctx, newBox("")))
	require.NoError(t, db.Insert(ctx, newBox("")), "boxes without a name do not clash")
	all, err := db.List(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, b.ID, all[2].ID, "newest first")

	require.NoError(t, db.Delete(ctx, b.ID, "destroy", false, nil))
	_, err = db.Find(ctx, "one")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestFind(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	a, b := newBox(""), newBox("")
	a.ID, b.ID = "01HV0000000000000000000001", "01HV0000000000000000000002"
	b.Name = a.ID[:10] // a name wins over a prefix
	require.NoError(t, db.Insert(ctx, b))
	require.NoError(t, db.Insert(ctx, a))
	var hides *NameError
	for name, refused := range map[string]bool{a.ID[:4]: true, strings.ToLower(a.ID): true, a.ID[:2]: false, a.ID[1:8]: false} {
		c := newBox(name)
		c.ID = "01HW000000000000000000000" + strconv.Itoa(len(name)%10)
		require.Equal(t, refused, errors.As(db.Insert(ctx, c), &hides), name)
	}
	_, err := db.Update(ctx, a.ID, func(row *Box) error { row.Name = b.ID[:26]; return nil })
	require.ErrorAs(t, err, &hides)
	require.Equal(t, b.Name, hides.Box)
	for key, want := range map[string]error{
		"01HV": ErrAmbiguous, "01H": ErrNotFound, "01HV*": ErrNotFound, "": ErrNotFound, "01hv0000000000000000000001": nil, b.Name: nil,
	} {
		got, err := db.Find(ctx, key)
		require.ErrorIs(t, err, want, key)
		if key == b.Name {
			require.Equal(t, b.ID, got.ID)
		}
	}
}

func TestUpdateIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	ctx, first := context.Background(), open(t, path)
	b := newBox("counter")
	require.NoError(t, first.Insert(ctx, b))
	const writers, rounds = 4, 25
	var wg sync.WaitGroup
	for range writers {
		db := open(t, path) // a connection each, as processes have
		wg.Go(func() {
			for range rounds {
				_, err := db.Update(ctx, b.ID, func(b *Box) error { b.PID++; return nil })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := first.Find(ctx, b.ID)
	require.NoError(t, err)
	require.Equal(t, b.PID+writers*rounds, got.PID)

	boom := errors.New("boom")
	_, err = first.Update(ctx, b.ID, func(b *Box) error { b.Status = "lost"; return boom })
	require.ErrorIs(t, err, boom)
	got, err = first.Find(ctx, b.ID)
	require.NoError(t, err)
	require.Equal(t, "configured", got.Status)
}

// TestOlderSchema opens a file of each version that there was, with a box in it.
func TestOlderSchema(t *testing.T) {
	ctx := context.Background()
	for v := 1; v < schemaVersion; v++ {
		path := filepath.Join(t.TempDir(), "db")
		raw, err := sql.Open("sqlite", path)
		require.NoError(t, err)
		for _, step := range steps[:v] {
			_, err = raw.Exec(step)
			require.NoError(t, err)
		}
		_, err = raw.Exec(fmt.Sprintf(`INSERT INTO boxes (id, name, created_at, updated_at, options, image, status, reason, pid, pid_start, boot_id, ephemeral)
			VALUES ('01HV0000000000000000000001', 'old', 5, 6, x'7b7d', 'alpine', 'stopped', '', 0, 0, '', 0); PRAGMA user_version = %d`, v))
		require.NoError(t, err)
		require.NoError(t, raw.Close())
		for range 2 {
			db := open(t, path)
			b, err := db.Find(ctx, "old")
			require.NoError(t, err)
			require.Equal(t, "alpine", b.Image)
			require.Nil(t, b.ExitCode)
			require.True(t, b.StartedAt.IsZero())
			require.True(t, b.FinishedAt.IsZero())
			require.NoError(t, db.Close())
		}
	}
}
