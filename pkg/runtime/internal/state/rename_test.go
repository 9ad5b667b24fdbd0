package state

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRename(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	a, b := newBox("a"), newBox("")
	require.NoError(t, db.Insert(ctx, a))
	require.NoError(t, db.Insert(ctx, b))
	require.NoError(t, db.Rename(ctx, b.ID, "b"))
	require.ErrorIs(t, db.Rename(ctx, b.ID, "a"), ErrExists)
	require.NoError(t, db.Rename(ctx, b.ID, "b"), "the name it has")
	require.ErrorIs(t, db.Rename(ctx, "01HV0000000000000000000001", "c"), ErrNotFound)
	got, err := db.Find(ctx, "b")
	require.NoError(t, err)
	want := *b
	want.Name = "b"
	require.Equal(t, &want, got, "nothing but the name changed")
	got, err = db.Find(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, a, got)
}
