package hostfiles

import (
	"archive/tar"
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

// TestDirectoriesStay: directories that are there keep their modes, unless all is kept.
func TestDirectoriesStay(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(from+"/tree/sub", 0o755))
	require.NoError(t, os.WriteFile(from+"/tree/sub/file", []byte("x"), 0o644))
	require.NoError(t, os.MkdirAll(to+"/tree/sub", 0o700))
	modes := func(want os.FileMode) {
		t.Helper()
		for _, name := range []string{"/tree", "/tree/sub"} {
			fi, err := os.Stat(to + name)
			require.NoError(t, err)
			require.Equal(t, want, fi.Mode().Perm(), name)
		}
	}
	require.NoError(t, os.Chmod(to+"/tree", 0o700))
	archive := pack(t, from+"/tree")
	require.NoError(t, unpack(t, archive, Unpacking{Name: "tree"}, to, true))
	modes(0o700)
	require.FileExists(t, to+"/tree/sub/file")
	require.NoError(t, unpack(t, archive, Unpacking{Name: "tree", Archive: true}, to, true))
	modes(0o755)
	require.NoError(t, os.RemoveAll(to+"/tree"))
	require.NoError(t, unpack(t, archive, Unpacking{Name: "tree"}, to, true))
	modes(0o755)
}

// TestOthersStay: links and what is special take the place of others only once they
// are made, and a device that of a device.
func TestOthersStay(t *testing.T) {
	to := t.TempDir()
	list := []tar.Header{
		{Name: "x/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "x/link", Typeflag: tar.TypeSymlink, Linkname: "elsewhere"},
		{Name: "x/pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "x/hard", Typeflag: tar.TypeLink, Linkname: "x/pipe"},
	}
	if os.Getuid() == 0 {
		list = append(list, tar.Header{Name: "x/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3})
	}
	for range 3 {
		require.NoError(t, unpack(t, archive(t, list...), Unpacking{Name: "x", Archive: true, Warn: func(s string) { t.Error(s) }}, to, true))
		names, err := os.ReadDir(to + "/x")
		require.NoError(t, err)
		require.Len(t, names, len(list)-1)
	}
	require.NoError(t, os.Remove(to+"/x/link"))
	require.NoError(t, os.Mkdir(to+"/x/link", 0o755))
	require.ErrorContains(t, unpack(t, archive(t, list...), Unpacking{Name: "x", Archive: true}, to, true), "is not replaced by a file")
}
