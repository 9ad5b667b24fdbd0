package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The tests below work in a folder as programs do. On the host they show that they
// are right themselves; TestGuestMounts runs them in the guest, on shares, and looks
// at what the host then has.

// onShare is the folder to work in: in the guest a share, whose contents stay.
func onShare(t *testing.T) string {
	if dir := os.Getenv(shareDir); dir != "" {
		return dir
	}
	return t.TempDir()
}

// TestPackages unpacks, moves, reads and removes what npm might.
func TestPackages(t *testing.T) {
	dir := onShare(t)
	makePackages(t, dir)
	checkPackages(t, dir)
}

// packageFiles is how many files a package has.
const packageFiles = 20

// packages is how many there are: with BOXLITE_SOAK, and in the guest that has a
// test for them alone, 1,000.
func packages() int {
	if machinetest.Soak() || os.Getenv(allPackages) != "" {
		return 1000
	}
	return 10
}

// packageFile is a file of a package and its contents.
func packageFile(n, file int) (path string, contents []byte) {
	names := [...]string{"package.json", "README.md", "lib/index.js", fmt.Sprintf("lib/util/part-%d.js", file)}
	path = fmt.Sprintf("node_modules/scope-%d/package-%d/%s", n%17, n, names[min(file, len(names)-1)])
	return path, bytes.Repeat([]byte(path+"\n"), 1+(n*7+file*13)%50)
}

// removed are the packages that do not stay.
func removed(n int) bool { return n%10 == 3 }

func makePackages(t *testing.T, dir string) {
	links := filepath.Join(dir, "node_modules/.bin")
	require.NoError(t, os.MkdirAll(links, 0o755))
	var wait sync.WaitGroup
	for first := range 4 { // at once, as npm does
		wait.Go(func() {
			for n := first; n < packages(); n += 4 {
				path, _ := packageFile(n, 0)
				final := filepath.Join(dir, filepath.Dir(path))
				staging := filepath.Join(filepath.Dir(final), fmt.Sprintf(".package-%d-xyz", n))
				assertNil(t, os.MkdirAll(filepath.Join(staging, "lib/util"), 0o755))
				for file := range packageFiles {
					path, contents := packageFile(n, file)
					rel, err := filepath.Rel(final, filepath.Join(dir, path))
					assertNil(t, err)
					assertNil(t, os.WriteFile(filepath.Join(staging, rel), contents, 0o644))
				}
				assertNil(t, os.Rename(staging, final))
				assertNil(t, os.Symlink(filepath.Join("..", fmt.Sprintf("scope-%d/package-%d/lib/index.js", n%17, n)), filepath.Join(links, fmt.Sprint(n))))
				if removed(n) {
					assertNil(t, os.RemoveAll(final))
				}
			}
		})
	}
	wait.Wait()
}

func checkPackages(t *testing.T, dir string) {
	found := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(dir, "node_modules"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found++
		}
		return err
	}))
	want := 0
	for n := range packages() {
		link := filepath.Join(dir, "node_modules/.bin", fmt.Sprint(n))
		if removed(n) {
			_, err := os.Stat(link)
			require.ErrorIs(t, err, fs.ErrNotExist)
			continue
		}
		for file := range packageFiles {
			path, contents := packageFile(n, file)
			got, err := os.ReadFile(filepath.Join(dir, path))
			require.NoError(t, err)
			require.True(t, bytes.Equal(contents, got), path)
			want++
		}
		_, contents := packageFile(n, 2)
		got, err := os.ReadFile(link)
		require.NoError(t, err)
		require.True(t, bytes.Equal(contents, got), link)
	}
	require.Equal(t, want, found, "no others")
}

// assertNil is for goroutines.
func assertNil(t *testing.T, err error) {
	if err != nil {
		t.Error(err)
	}
}

// TestChecksums writes blocks that carry their own checksum at random places, in
// every way there is, and reads them in another way.
func TestChecksums(t *testing.T) {
	dir := onShare(t)
	makeBlocks(t, dir)
	checkBlocks(t, dir)
}

const blockSize = 16 << 10

var (
	blockCount = long(8) // of a file
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	ways       = []string{"buffered", "direct", "mapped", "synchronous", "appended"}
)

// block is the contents of one after so many rounds: number, round, noise, checksum.
func block(p []byte, n, round int) {
	le.PutUint32(p, uint32(n))
	le.PutUint32(p[4:], uint32(round))
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(round)})
	_, _ = r.Read(p[8 : len(p)-4])
	le.PutUint32(p[len(p)-4:], crc32.Checksum(p[:len(p)-4], castagnoli))
}

func checkBlock(p []byte, n, round int) error {
	switch {
	case crc32.Checksum(p[:len(p)-4], castagnoli) != le.Uint32(p[len(p)-4:]):
		return fmt.Errorf("block %d: wrong checksum", n)
	case le.Uint32(p) != uint32(n) || le.Uint32(p[4:]) != uint32(round):
		return fmt.Errorf("block %d of round %d, want %d of %d", le.Uint32(p), le.Uint32(p[4:]), n, round)
	}
	return nil
}

// aligned is a buffer for O_DIRECT.
func aligned(n int) []byte {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err) // out of memory
	}
	return p
}

func blocksFile(dir, way string) string { return filepath.Join(dir, "blocks-"+way) }

func makeBlocks(t *testing.T, dir string) {
	var wait sync.WaitGroup
	for _, way := range ways {
		wait.Go(func() { assertNil(t, writeBlocks(blocksFile(dir, way), way)) })
	}
	wait.Wait()
}

func writeBlocks(path, way string) error {
	flags := os.O_RDWR | os.O_CREATE | map[string]int{"direct": unix.O_DIRECT, "synchronous": os.O_SYNC, "appended": os.O_APPEND}[way]
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	write := f.WriteAt
	switch way {
	case "appended":
		write = func(p []byte, _ int64) (int, error) { return f.Write(p) }
	case "mapped":
		if err := f.Truncate(int64(blockSize * blockCount)); err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, blockSize*blockCount, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		defer unix.Munmap(m)
		write = func(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
	}
	buf := aligned(blockSize)
	order := rand.New(rand.NewPCG(7, uint64(len(way)))).Perm(blockCount)
	for round := range long(2) {
		if way == "appended" {
			if err := f.Truncate(0); err != nil {
				return err
			}
		}
		for i, n := range order {
			if way == "appended" {
				n = i
			}
			block(buf, n, round)
			if _, err := write(buf, int64(n)*blockSize); err != nil {
				return err
			}
		}
	}
	return errors.Join(f.Sync(), readBlocks(path, unix.O_DIRECT))
}

func readBlocks(path string, flags int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := aligned(blockSize)
	for n := range blockCount {
		if _, err := f.ReadAt(buf, int64(n)*blockSize); err != nil {
			return err
		}
		if err := checkBlock(buf, n, long(2)-1); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func checkBlocks(t *testing.T, dir string) {
	for _, way := range ways {
		require.NoError(t, readBlocks(blocksFile(dir, way), 0))
		info, err := os.Stat(blocksFile(dir, way))
		require.NoError(t, err)
		require.EqualValues(t, blockSize*blockCount, info.Size())
	}
}
