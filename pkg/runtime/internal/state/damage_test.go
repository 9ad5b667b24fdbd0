package state

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewerSchemaIsRefused(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	require.NoError(t, db.Insert(ctx, newBox("kept")))
	require.NoError(t, db.Close())
	raw, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = raw.Exec(fmt.Sprintf("PRAGMA journal_mode = DELETE; PRAGMA user_version = %d", schemaVersion+1))
	require.NoError(t, err)
	require.NoError(t, raw.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	_, err = Open(ctx, path)
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "use the newer boxlite or another home")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the file was touched")
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, files, 1, "files were made beside it")
}

// TestNewerSchemaInTheLog is a file whose version is still in the write-ahead log
// alone, as after a kill of the newer program.
func TestNewerSchemaInTheLog(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	require.NoError(t, db.Insert(ctx, newBox("kept")))
	_, err := db.db.Exec(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion+1))
	require.NoError(t, err)
	require.Less(t, storedVersion(path), schemaVersion+1, "it is not in the log")
	_, err = Open(ctx, path)
	require.ErrorIs(t, err, ErrNewer)
	_, err = db.Find(ctx, "kept")
	require.NoError(t, err)
}

// TestWhatLastsIsSynced looks at the level that SQLite writes with.
func TestWhatLastsIsSynced(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	const normal, full = 1, 2
	level := func() (n int) {
		require.NoError(t, db.db.QueryRow("PRAGMA synchronous").Scan(&n))
		return n
	}
	for _, ephemeral := range []bool{true, false, true} {
		want := full
		if ephemeral {
			want = normal
		}
		b := newBox("")
		b.Ephemeral = ephemeral
		require.NoError(t, db.Insert(ctx, b))
		require.Equal(t, want, level(), "insert, ephemeral %v", ephemeral)
		_, err := db.Update(ctx, b.ID, func(*Box) error { return nil })
		require.NoError(t, err)
		require.Equal(t, want, level(), "update, ephemeral %v", ephemeral)
		require.NoError(t, db.Delete(ctx, b.ID, "destroy", false, nil))
		require.Equal(t, want, level(), "delete, ephemeral %v", ephemeral)
	}
}

func TestDamagedFile(t *testing.T) {
	ctx := context.Background()
	for name, damage := range map[string]func([]byte) []byte{
		"no database":     func([]byte) []byte { return []byte(strings.Repeat("this is a letter to you. ", 300)) },
		"garbage in it":   func(b []byte) []byte { copy(b[100:], bytes.Repeat([]byte{0xee}, len(b)-100)); return b },
		"end is missing":  func(b []byte) []byte { return b[:len(b)/2] },
		"header is wrong": func(b []byte) []byte { b[21] = 9; return b },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			db := open(t, path)
			for range 50 {
				require.NoError(t, db.Insert(ctx, newBox("")))
			}
			require.NoError(t, db.Close())
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, damage(b), 0o600))

			db, err = Open(ctx, path)
			if err == nil { // the schema could be read
				_, err = db.List(ctx)
				db.Close()
			}
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, "move it away")
		})
	}
}

func TestFullDisk(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	kept := newBox("kept")
	require.NoError(t, db.Insert(ctx, kept))
	// SQLite takes this limit for the end of the disk.
	_, err := db.db.Exec("PRAGMA max_page_count = 1")
	require.NoError(t, err)
	for range 1000 {
		if err = db.Insert(ctx, newBox("")); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "no space left on the disk")
	require.ErrorContains(t, err, db.path)
	got, err := db.Find(ctx, "kept")
	require.NoError(t, err, "what was there can be read")
	require.Equal(t, kept.ID, got.ID)
}
