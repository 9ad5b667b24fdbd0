package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCreate checks the filesystem with e2fsck, which trusts nothing.
func TestCreate(t *testing.T) {
	for _, gb := range []int{1, 9, DefaultGB, 64} {
		path := filepath.Join(t.TempDir(), "disk")
		require.NoError(t, Create(path, gb))
		fi, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, int64(gb)<<30, fi.Size())
		require.Less(t, fi.Sys().(*syscall.Stat_t).Blocks*512, int64(1<<20), "the file must be sparse")
		out, err := exec.Command("/sbin/e2fsck", "-fn", path).CombinedOutput()
		require.NoErrorf(t, err, "e2fsck: %s", out)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, gb := range []int{-1, 0, MaxGB + 1} {
		require.ErrorContains(t, Create(filepath.Join(dir, "disk"), gb), "choose 1 to")
	}
	path := filepath.Join(dir, "there")
	require.NoError(t, os.WriteFile(path, []byte("data"), 0o600))
	require.ErrorIs(t, Create(path, 1), os.ErrExist)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "data", string(b), "an existing disk must stay as it is")
}

func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		path := filepath.Join(dir, "disk")
		if err := Create(path, DefaultGB); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}
