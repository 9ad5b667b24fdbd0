package assets

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func aged(t *testing.T, path string, age time.Duration) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 5000), 0o600))
	when := time.Now().Add(-age)
	require.NoError(t, os.Chtimes(path, when, when))
	return path
}

// Unpacking a new version clears away what killed processes left, and versions
// that nobody has used for long; asking for it, what was not used today.
func TestOldKernelsGo(t *testing.T) {
	home := t.TempDir()
	dir := Dir(home)
	hex := strings.Repeat("0123456789abcdef", 4)
	dead := aged(t, filepath.Join(dir, ".unpack-1"), 0)
	ancient := aged(t, filepath.Join(dir, "vmlinux-0123456789abcdef"), 2*staleAfter)
	old := aged(t, filepath.Join(dir, "initramfs.cpio-0123456789abcdef"), 2*unusedFor)
	recent := aged(t, filepath.Join(dir, "vmlinux-fedcba9876543210"), time.Hour)
	byHand := aged(t, filepath.Join(dir, "vmlinux"), 2*staleAfter)
	other := aged(t, filepath.Join(dir, "vmlinux-mine"), 2*staleAfter)
	last := aged(t, filepath.Join(dir, hex, "vmlinux"), 0)
	unused := aged(t, filepath.Join(dir, strings.Repeat("f", 64), "vmlinux"), 0)
	require.NoError(t, os.Symlink(hex, filepath.Join(dir, lastName)))
	for _, p := range []string{last, unused} {
		when := time.Now().Add(-2 * unusedFor)
		require.NoError(t, os.Chtimes(filepath.Dir(p), when, when))
	}
	live, err := lockedTemp(dir)
	require.NoError(t, err)
	defer live.Close()

	_, err = clean(dir, staleAfter)
	require.NoError(t, err)
	for _, p := range []string{dead, ancient} {
		require.NoFileExists(t, p)
	}
	for _, p := range []string{old, recent, byHand, other, last, unused, live.Name()} {
		require.FileExists(t, p)
	}

	total, reclaimable, err := Usage(home)
	require.NoError(t, err)
	require.Greater(t, total, reclaimable)
	kernels, idle := Count(home)
	require.Equal(t, []int{4, 1}, []int{kernels, idle}, "recent, by hand, the last and the unused artifact; initramfs and other files are none")
	freed, err := Prune(home)
	require.NoError(t, err)
	require.Equal(t, reclaimable, freed)
	require.GreaterOrEqual(t, freed, int64(2*5000))
	for _, p := range []string{old, filepath.Dir(unused)} {
		require.NoFileExists(t, p)
		require.NoDirExists(t, p)
	}
	for _, p := range []string{recent, byHand, other, last, live.Name()} {
		require.FileExists(t, p)
	}
	_, reclaimable, err = Usage(home)
	require.NoError(t, err)
	require.Zero(t, reclaimable)
	_, err = Prune(t.TempDir())
	require.NoError(t, err, "no kernels at all")
}

// The built-in one is unpacked, used again, and not pruned.
func TestBuiltin(t *testing.T) {
	sum, ok := Kernel.Sum()
	if !ok {
		_, err := Kernel.Find("", t.TempDir())
		require.ErrorIs(t, err, ErrMissing)
		return
	}
	home := t.TempDir()
	dead := aged(t, filepath.Join(Dir(home), ".unpack-1"), 0)
	path, err := Kernel.Find("", home)
	require.NoError(t, err)
	require.Contains(t, path, sum[:16])
	require.NoFileExists(t, dead)
	before := time.Now().Add(-2 * unusedFor)
	require.NoError(t, os.Chtimes(path, before, before))
	again, err := Kernel.Find("", home)
	require.NoError(t, err)
	require.Equal(t, path, again)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, time.Since(fi.ModTime()), time.Hour, "its use is noted")
	_, err = Prune(home)
	require.NoError(t, err)
	require.FileExists(t, path)
}

func TestFind(t *testing.T) {
	home := t.TempDir()
	file := aged(t, filepath.Join(home, "k"), 0)
	t.Setenv("BOXLITE_KERNEL", file)
	path, err := Kernel.Find("", home)
	require.NoError(t, err)
	require.Equal(t, file, path)
	_, err = Kernel.Find(home, home)
	require.ErrorContains(t, err, "is not a file")
	_, err = Kernel.Find(filepath.Join(home, "none"), home)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A bomb is stopped by what it unpacks to.
func TestDecompressIsBounded(t *testing.T) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	require.NoError(t, err)
	const most = 1 << 20
	_, err = z.Write(make([]byte, 16*most))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	n := 0
	require.ErrorContains(t, decompress(counter{&n}, &b, most), "more than")
	require.LessOrEqual(t, n, most+1)
}

type counter struct{ n *int }

func (c counter) Write(p []byte) (int, error) {
	*c.n += len(p)
	return len(p), nil
}
