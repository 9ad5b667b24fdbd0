package boot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPopulate fills volumes with an image's folder, also where somebody began and
// did not finish.
func TestPopulate(t *testing.T) {
	image := t.TempDir()
	require.NoError(t, os.MkdirAll(image+"/sub/deep", 0o750))
	require.NoError(t, os.WriteFile(image+"/sub/deep/f", []byte("content"), 0o640))
	require.NoError(t, os.Symlink("sub/deep/f", image+"/link"))
	require.NoError(t, os.Chmod(image, 0o711))
	whole := []string{"link", "sub"}
	write := func(t *testing.T, path string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("other"), 0o644))
	}
	for name, c := range map[string]struct {
		before func(t *testing.T, dir string)
		image  string
		want   []string
	}{
		"empty":           {func(*testing.T, string) {}, image, whole},
		"half a copy":     {func(t *testing.T, dir string) { write(t, dir+"/"+agentapi.Populating+"/sub/left/f") }, image, whole},
		"content":         {func(t *testing.T, dir string) { write(t, dir+"/own") }, image, []string{"own"}},
		"nothing there":   {func(*testing.T, string) {}, t.TempDir(), nil},
		"complete copy":   {func(t *testing.T, dir string) { write(t, dir+"/"+agentapi.Populated+"/a"); write(t, dir+"/b") }, image, []string{"a", "b"}},
		"own half a copy": {func(t *testing.T, dir string) { write(t, dir+"/"+agentapi.Populating+"/x"); write(t, dir+"/own") }, image, []string{agentapi.Populating, "own"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.before(t, dir)
			require.NoError(t, populate(dir, c.image))
			names, err := list(unix.AT_FDCWD, dir)
			require.NoError(t, err)
			require.ElementsMatch(t, c.want, names)
			if len(names) > 0 && names[0] != "own" && contains(names, "link") {
				text, err := os.ReadFile(dir + "/link")
				require.NoError(t, err)
				require.Equal(t, "content", string(text))
				fi, err := os.Stat(dir)
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o711), fi.Mode().Perm())
				fi, err = os.Stat(dir + "/sub/deep")
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o750), fi.Mode().Perm())
			}
		})
	}
	require.Error(t, populate(t.TempDir()+"/missing", image))
}

// TestPopulateFromNothing: a volume over an empty folder has its owner and mode,
// unless somebody has given it others.
func TestPopulateFromNothing(t *testing.T) {
	image := t.TempDir()
	require.NoError(t, os.Chmod(image, 0o777|os.ModeSticky))
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(image, 1000, 1001))
	} else {
		t.Skip("a new volume is root's: run as root, as CI does")
	}
	dir := t.TempDir()
	look := func() (st unix.Stat_t) {
		require.NoError(t, unix.Stat(dir, &st))
		return st
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, populate(dir, image))
	st := look()
	require.EqualValues(t, 0o1777, st.Mode&0o7777)
	require.Equal(t, []uint32{1000, 1001}, []uint32{st.Uid, st.Gid})
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, list)

	require.NoError(t, os.Chown(dir, 5, 5))
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, populate(dir, image))
	st = look()
	require.EqualValues(t, 0o700, st.Mode&0o7777)
	require.EqualValues(t, 5, st.Uid)
}

// TestPopulateFollowsNothing is a volume in which another box has left links, where
// our marks would be and in what looks like half a copy: nothing behind them changes.
func TestPopulateFollowsNothing(t *testing.T) {
	image := t.TempDir()
	require.NoError(t, os.WriteFile(image+"/new", nil, 0o644))
	for name, c := range map[string]struct {
		leave func(dir, victim string) error
		fails bool
	}{
		"populating":     {func(dir, victim string) error { return os.Symlink(victim, dir+"/"+agentapi.Populating) }, true},
		"populated":      {func(dir, victim string) error { return os.Symlink(victim, dir+"/"+agentapi.Populated) }, true},
		"within a copy":  {func(dir, victim string) error { return folderWithLink(dir+"/"+agentapi.Populating, victim) }, false},
		"within a whole": {func(dir, victim string) error { return folderWithLink(dir+"/"+agentapi.Populated, victim) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, victim := t.TempDir(), t.TempDir()
			require.NoError(t, os.MkdirAll(victim+"/sub/deep", 0o755))
			require.NoError(t, os.WriteFile(victim+"/sub/deep/f", nil, 0o644))
			require.NoError(t, os.WriteFile(victim+"/f", nil, 0o644))
			require.NoError(t, c.leave(dir, victim))
			err := populate(dir, image)
			if c.fails {
				require.ErrorContains(t, err, "is no folder")
			} else {
				require.NoError(t, err)
			}
			names, err := list(unix.AT_FDCWD, victim)
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"sub", "f"}, names)
			require.FileExists(t, victim+"/sub/deep/f")
		})
	}
}

// TestPopulateSwapped has another box exchange the marks for links all the time.
func TestPopulateSwapped(t *testing.T) {
	image, dir, victim := t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(image+"/sub/deep", 0o755))
	require.NoError(t, os.WriteFile(image+"/sub/deep/new", nil, 0o644))
	require.NoError(t, os.WriteFile(victim+"/f", nil, 0o644))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		link := t.TempDir() + "/link"
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Symlink(victim, link)
			for _, mark := range []string{agentapi.Populating, agentapi.Populated} {
				_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, dir+"/"+mark, unix.RENAME_EXCHANGE)
			}
			os.RemoveAll(link)
		}
	}()
	for range 200 {
		_ = populate(dir, image) // whatever it makes of that
		names, err := list(unix.AT_FDCWD, dir)
		require.NoError(t, err)
		for _, name := range names {
			os.RemoveAll(dir + "/" + name)
		}
	}
	close(stop)
	<-done
	names, err := list(unix.AT_FDCWD, victim)
	require.NoError(t, err)
	require.Equal(t, []string{"f"}, names)
}

// folderWithLink makes a folder with a link in it.
func folderWithLink(dir, victim string) error {
	return errors.Join(os.Mkdir(dir, 0o755), os.Symlink(victim, dir+"/link"))
}
