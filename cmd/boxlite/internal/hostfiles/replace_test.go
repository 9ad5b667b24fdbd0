package hostfiles

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFailedFileStays: what a copy would replace stays when the copy does not come
// to its end, and nothing is left of the new file.
func TestFailedFileStays(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(from+"/file", bytes.Repeat([]byte("new"), 100_000), 0o644))
	require.NoError(t, os.WriteFile(to+"/file", []byte("precious"), 0o600))
	whole := pack(t, from+"/file")
	into := Unpacking{Name: "file", As: "file"}
	require.Error(t, unpack(t, whole[:200_000], into, to, false))
	p, err := os.ReadFile(to + "/file")
	require.NoError(t, err)
	require.Equal(t, "precious", string(p))
	list, err := os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.NoError(t, unpack(t, whole, into, to, false))
	p, err = os.ReadFile(to + "/file")
	require.NoError(t, err)
	require.Len(t, p, 300_000)
	list, err = os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// TestHolesStay: a sparse file is one on the other side, with the same content.
func TestHolesStay(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	const size = 5<<20 + 77
	for _, name := range []string{"holes", "whole"} {
		f, err := os.Create(filepath.Join(from, name))
		require.NoError(t, err)
		if name == "holes" {
			require.NoError(t, f.Truncate(size))
		} else {
			_, err = f.Write(make([]byte, size))
			require.NoError(t, err)
		}
		for _, off := range []int64{0, 4095, 1<<20 + 5, 3<<20 - 1} {
			_, err := f.WriteAt([]byte("here"), off)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		require.NoError(t, unpack(t, pack(t, filepath.Join(from, name)), Unpacking{Name: name, As: name}, to, false))
		want, err := os.ReadFile(filepath.Join(from, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(to, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(to, name), &st))
		require.Equal(t, name == "holes", st.Blocks*512 < 1<<20, "%s: %d blocks", name, st.Blocks)
	}
}

// TestDirectoriesStay: a directory that is there keeps its mode, unless all is kept.
func TestDirectoriesStay(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(from+"/tree/sub", 0o755))
	require.NoError(t, os.WriteFile(from+"/tree/sub/file", []byte("x"), 0o644))
	require.NoError(t, os.MkdirAll(to+"/tree/sub", 0o700))
	mode := func() os.FileMode {
		fi, err := os.Stat(to + "/tree/sub")
		require.NoError(t, err)
		return fi.Mode().Perm()
	}
	archive := pack(t, from+"/tree")
	require.NoError(t, unpack(t, archive, Unpacking{Name: "tree"}, to, true))
	require.EqualValues(t, 0o700, mode())
	require.FileExists(t, to+"/tree/sub/file")
	require.NoError(t, unpack(t, archive, Unpacking{Name: "tree", Archive: true}, to, true))
	require.EqualValues(t, 0o755, mode())
}
