package boot

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMountTargets finds the places of mounts in a root that somebody hostile made.
func TestMountTargets(t *testing.T) {
	top := t.TempDir()
	outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "root")
	for _, d := range []string{"outside", "root/etc", "root/run/x"} {
		require.NoError(t, os.MkdirAll(filepath.Join(top, d), 0o755))
	}
	require.NoError(t, os.WriteFile(dir+"/etc/file", nil, 0o644))
	for name, to := range map[string]string{
		"abs": "/run", "rel": "etc/../run", "climbs": "../../outside", "out": outside, "deep/er": "/run/x",
		"nowhere": "/none", "self": "self", "proc": "/proc", "magic": "/proc/self/cwd",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o600))
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(root)

	for path, want := range map[string]string{
		"/etc": "/etc", "/new/in/there": "/new/in/there", "/abs": "/run", "/rel/x": "/run/x", "/abs/made": "/run/made",
		"/deep/er/more": "/run/x/more", "/proc-not": "/proc-not", "/climbs/y": "",
	} {
		if path == "/climbs/y" { // ".." stops at the root, where no outside is
			_, err := openTarget(root, path, false)
			require.ErrorContains(t, err, "a link to something that is not there")
			continue
		}
		fd, err := openTarget(root, path, false)
		require.NoError(t, err, path)
		got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		require.NoError(t, err)
		require.Equal(t, dir+want, got, path)
		unix.Close(fd)
	}
	for path, want := range map[string]string{"/etc/file": "/etc/file", "/new/file": "/new/file", "/abs/f": "/run/f"} {
		fd, err := openTarget(root, path, true)
		require.NoError(t, err, path)
		fi, err := os.Stat(dir + want)
		require.NoError(t, err)
		require.True(t, fi.Mode().IsRegular())
		unix.Close(fd)
	}
	for path, want := range map[string]string{
		"/etc/file": "but there is a file", "/fifo": "but there is a file", "/etc/file/x": "not a directory",
		"/nowhere": "a link to something that is not there", "/nowhere/x": "a link to something that is not there",
		"/self": "too many levels", "/out": "a link to something that is not there",
	} {
		_, err := openTarget(root, path, false)
		require.ErrorContains(t, err, want, path)
	}
	_, err = openTarget(root, "/etc", true)
	require.ErrorContains(t, err, "a file is shared, but there is a folder")
	_, err = openTarget(root, "/fifo", true)
	require.ErrorContains(t, err, "there is a special file")
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)

	// With the real root, whose /proc is the kernel's.
	real, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(real)
	_, err = openTarget(real, dir+"/proc", false)
	require.ErrorContains(t, err, "one of the kernel's file systems")
	_, err = openTarget(real, dir+"/magic", false)
	require.ErrorContains(t, err, "too many levels")
}

func TestCleanPaths(t *testing.T) {
	for path, want := range map[string]bool{
		"/a": true, "/a/b.c": true, "/..a": true,
		"": false, "/": false, "a": false, "/a/": false, "//a": false, "/a//b": false, "/./a": false, "/a/..": false, "/a\x00": false,
	} {
		require.Equal(t, want, isClean(path), path)
	}
}
