package erofs

import (
	"archive/tar"
	"bytes"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/oci/erofs/erofstest"
	"github.com/stretchr/testify/require"
)

func writeTar(t testing.TB, l layer) []byte {
	t.Helper()
	var out bytes.Buffer
	skipped, err := WriteTar(t.Context(), bytes.NewReader(l.meta), bytes.NewReader(l.blob), &out)
	require.NoError(t, err)
	require.Zero(t, skipped)
	return out.Bytes()
}

// Each layer is written as a tar and converted again: the images are the same
// file by file, and so is the next round byte by byte.
func TestLayersComeBackFromTheirTars(t *testing.T) {
	extremes := layerTar(t,
		dir(".", 0o755).at(time.Unix(-1<<33, 999_999_999)), file("old", "o").at(time.Unix(-5, 250_000_000)),
		file("late", strings.Repeat("l", 5000)).at(time.Unix(1<<40, 1)), file("owned", "x").owned(math.MaxUint32-1, 1<<31),
		file("bin\xff\xfe", "not UTF-8"), file("line\nfeed", "x"), symlink("lf", "to\nthe \xff"),
		file(strings.Repeat("long/", 60)+strings.Repeat("n", 255), "deep"), link("hard", "bin\xff\xfe"),
		file("x", "v").xattr("user.value", "a\x00=\n12 b=c\n"))
	archives := append(difficultLayers(t), extremes)
	var again [][]byte
	for _, a := range archives {
		l := convert(t, a)
		out := writeTar(t, l)
		back := convert(t, out)
		require.Equal(t, l.blob, back.blob)
		require.Equal(t, out, writeTar(t, back))
		again = append(again, out)
		for r := tar.NewReader(bytes.NewReader(out)); ; { // others can read it
			if _, err := r.Next(); err == io.EOF {
				break
			} else {
				require.NoError(t, err)
			}
		}
	}
	requireSame(t, "converted", build(t, archives...).list(t), build(t, again...).list(t), func(*erofstest.File) {})
}

// Holes stay holes, for us and for GNU tar.
func TestSparseFilesComeBackFromTheirTars(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for name, at := range map[string][]int64{"empty": nil, "head": {0}, "tail": {8<<20 + 77 - 5000}, "middle": {1 << 20, 3<<20 + 5, 7 << 20}} {
		f, err := os.Create(filepath.Join(src, name))
		require.NoError(t, err)
		require.NoError(t, f.Truncate(8<<20+77))
		for i, off := range at {
			_, err := f.WriteAt(bytes.Repeat([]byte{byte('a' + i)}, 5000), off)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
	}
	require.NoError(t, os.WriteFile(filepath.Join(src, "plain"), []byte("behind them"), 0o600))
	l, err := fromDir(t, src)
	require.NoError(t, err)
	out := writeTar(t, l)
	require.Less(t, len(out), 1<<20)
	back := convert(t, out)
	requireSame(t, "folder", merged(t, l).list(t), merged(t, back).list(t), func(*erofstest.File) {})

	file := filepath.Join(t.TempDir(), "layer.tar")
	require.NoError(t, os.WriteFile(file, out, 0o600))
	run(t, "tar", "-C", dst, "-xf", file)
	want, err := erofstest.Folder(src)
	require.NoError(t, err)
	got, err := erofstest.Folder(dst)
	require.NoError(t, err)
	requireSame(t, "GNU tar", want, got, func(*erofstest.File) {})
}

func TestWhatATarCannotHold(t *testing.T) {
	src := t.TempDir()
	s, err := net.Listen("unix", filepath.Join(src, "sock"))
	require.NoError(t, err)
	defer s.Close()
	l, err := fromDir(t, src)
	require.NoError(t, err)
	skipped, err := WriteTar(t.Context(), bytes.NewReader(l.meta), nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 1, skipped)

	require.NoError(t, os.WriteFile(filepath.Join(src, ".wh.x"), []byte("x"), 0o600))
	l, err = fromDir(t, src)
	require.NoError(t, err)
	_, err = WriteTar(t.Context(), bytes.NewReader(l.meta), nil, io.Discard)
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, ".wh.x")
}

// A blob that is not the whole one is noticed.
func TestWriteTarOfADamagedLayer(t *testing.T) {
	l := convert(t, layerTar(t, file("f", strings.Repeat("x", 9000))))
	_, err := WriteTar(t.Context(), bytes.NewReader(l.meta), bytes.NewReader(l.blob[:4096]), io.Discard)
	require.ErrorIs(t, err, ErrFormat)
	_, err = WriteTar(t.Context(), bytes.NewReader(l.meta), nil, io.Discard)
	require.ErrorIs(t, err, ErrFormat)
	_, err = WriteTar(t.Context(), bytes.NewReader(l.meta[:len(l.meta)-5]), bytes.NewReader(l.blob), io.Discard)
	require.ErrorIs(t, err, ErrFormat)
}
