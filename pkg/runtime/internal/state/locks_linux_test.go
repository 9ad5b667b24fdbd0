package state

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLocksStay: SQLite's locks on the main file outlive whatever else this
// process does with the state.
func TestLocksStay(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	require.NoError(t, db.Insert(ctx, newBox("kept")))
	before := locks(t, path)
	require.NotZero(t, before, "an open WAL database is locked")

	other := filepath.Join(filepath.Dir(path), "other name")
	require.NoError(t, os.Symlink(path, other))
	for _, p := range []string{path, other} {
		second := open(t, p)
		_, err := second.List(ctx)
		require.NoError(t, err)
		require.NoError(t, Create(p))
		require.NoError(t, second.Close())
		require.Equal(t, before, locks(t, path))
	}
	require.NoError(t, db.Close())
	require.Zero(t, locks(t, path))
	require.Empty(t, inUse.count)
}

// locks counts the record locks on a file, whoever holds them.
func locks(t *testing.T, path string) int {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	all, err := os.ReadFile("/proc/locks")
	require.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, "POSIX") && strings.Contains(line, fmt.Sprintf(":%d ", fi.Sys().(*syscall.Stat_t).Ino)) {
			n++
		}
	}
	return n
}
