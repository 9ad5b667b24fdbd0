package runtime

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// nest makes folders within each other, deeper than a path can be, with a file in
// each and no right to anything.
func nest(t *testing.T, dir string, depth int) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o755))
	name := strings.Repeat("d", 100)
	var fds []int
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	fds = append(fds, fd)
	for range depth {
		file, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		unix.Close(file)
		require.NoError(t, unix.Mkdirat(fd, name, 0o755))
		fd, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		require.NoError(t, unix.Fchmod(fd, 0))
		unix.Close(fd)
	}
}

// fewDescriptors leaves this process a few descriptors more than it has.
func fewDescriptors(t *testing.T) {
	t.Helper()
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the lowest that is free
	require.NoError(t, err)
	unix.Close(fd)
	var l unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
	few := l
	few.Cur = uint64(fd) + 50
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	t.Cleanup(func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &l)) })
}

// TestRemoveTree deletes what a guest can make of a volume.
func TestRemoveTree(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "v"), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "f"), nil, 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "links", "deep"), 0o755))
	for i := range 700 { // more than one reading
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", strings.Repeat("n", i%200+1), "x"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "links", strings.Repeat("f", i%200+1)), nil, 0))
	}
	require.NoError(t, os.Symlink(other, filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink(other, filepath.Join(dir, "a", "links", "deep", "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "a", "fifo"), 0))
	nest(t, filepath.Join(dir, "deep"), 300)
	fewDescriptors(t)
	require.NoError(t, removeTree(dir))
	require.NoFileExists(t, dir)
	require.NoDirExists(t, dir)
	require.FileExists(t, filepath.Join(other, "f"))
	require.NoError(t, removeTree(dir), "somebody else has deleted it")
}

// TestRemoveTreeTogether has several delete one tree.
func TestRemoveTreeTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for _, name := range []string{"a", "b", "c"} {
		nest(t, filepath.Join(dir, name), 50)
	}
	done := make(chan error)
	for range 3 {
		go func() { done <- removeTree(dir) }()
	}
	for range 3 {
		require.NoError(t, <-done)
	}
	require.NoDirExists(t, dir)
}

// TestNameless is an error about a file of a guest's.
func TestNameless(t *testing.T) {
	_, err := os.Lstat(filepath.Join(t.TempDir(), "\x1b[2J"))
	require.ErrorIs(t, nameless(err), fs.ErrNotExist)
	require.NotContains(t, nameless(err).Error(), "2J")
	require.NotContains(t, nameless(os.Rename("/missing-2J", "/missing-2J-too")).Error(), "2J")
	require.NoError(t, nameless(nil))
}

// TestVolumesBesideLeftovers has content of a removed volume that cannot be deleted:
// volumes go on.
func TestVolumesBesideLeftovers(t *testing.T) {
	ctx, rt := t.Context(), newRuntime(t)
	_, err := rt.CreateVolume(ctx, VolumeOptions{Name: "one"})
	require.NoError(t, err)
	// Not even root deletes a file as the folder that it should be.
	require.NoError(t, os.WriteFile(filepath.Join(rt.HomeDir(), "volumes", gonePrefix+"x"), nil, 0o600))
	v, err := rt.CreateVolume(ctx, VolumeOptions{Name: "two"})
	require.NoError(t, err)
	require.DirExists(t, v.Mountpoint)
	rep, err := rt.PruneVolumes(ctx, VolumePruneOptions{All: true})
	require.NoError(t, err)
	require.Len(t, rep.Volumes, 2)
}
