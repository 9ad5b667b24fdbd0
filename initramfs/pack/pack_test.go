package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/u-root/u-root/pkg/cpio"
)

func TestPack(t *testing.T) {
	program := bytes.Repeat([]byte("\x7fELF..."), 1000)
	var one, two bytes.Buffer
	require.NoError(t, Pack(&one, program))
	require.NoError(t, Pack(&two, program))
	require.Equal(t, one.Bytes(), two.Bytes())
	require.Zero(t, one.Len()%4)
	require.Error(t, Pack(&two, nil))

	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(one.Bytes())))
	require.NoError(t, err)
	seen := map[string]cpio.Record{}
	for _, r := range records {
		require.Zero(t, r.MTime)
		require.Zero(t, r.UID+r.GID)
		seen[r.Name] = r
	}
	console := seen["dev/console"]
	require.EqualValues(t, []uint64{5, 1, 0o20600}, []uint64{console.Rmajor, console.Rminor, console.Mode})
	null := seen["dev/null"]
	require.EqualValues(t, []uint64{1, 3, 0o20666}, []uint64{null.Rmajor, null.Rminor, null.Mode})
	for _, dir := range []string{"dev", "lower", "upper", "newroot"} {
		require.EqualValues(t, 0o40755, seen[dir].Mode, dir)
	}
	init := seen["init"]
	require.EqualValues(t, 0o100755, init.Mode)
	got, err := io.ReadAll(io.NewSectionReader(init, 0, int64(init.FileSize)))
	require.NoError(t, err)
	require.Equal(t, program, got)
}

// TestRun builds the real program, small enough for every boot to copy.
func TestRun(t *testing.T) {
	out := filepath.Join(t.TempDir(), "below", "cpio")
	require.NoError(t, run(out, runtime.GOARCH, "test", ""))
	st, err := os.Stat(out)
	require.NoError(t, err)
	require.EqualValues(t, 0o644, st.Mode().Perm())
	require.Less(t, st.Size(), int64(2176<<10), "each KiB costs every boot")
	left, err := os.ReadDir(filepath.Dir(out))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Error(t, run(out, "amd64", "", "/no/such/init"))
	require.ErrorContains(t, run(out, "no-such-arch", "", ""), "no-such-arch")
}
