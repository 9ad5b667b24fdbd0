package oci

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTree(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, map[string][]byte{"etc/motd": []byte("hello from a folder"), "bin/tool": []byte(noise(1, 9000))})
	require.NoError(t, os.Symlink("motd", filepath.Join(dir, "etc/link")))
	require.NoError(t, os.Link(filepath.Join(dir, "etc/motd"), filepath.Join(dir, "etc/again")))
	s := newStore(t)
	img, err := s.Pull(t.Context(), "dir:"+dir, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, "dir:"+dir, img.Reference)
	require.Equal(t, DefaultPlatform(), img.Platform)
	require.Len(t, img.Layers, 1)
	requireContents(t, s, img, "hello from a folder", noise(1, 9000))
	requireClean(t, s)
	again, err := s.Pull(t.Context(), "dir:"+dir, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, img, again, "nothing has changed, so nothing is done")

	// Every kind of change counts, those that keep size and time included.
	file := filepath.Join(dir, "bin/tool")
	for name, change := range map[string]func() error{
		"contents": func() error {
			st, err := os.Stat(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, []byte(noise(2, 9000)), 0o644))
			return os.Chtimes(file, st.ModTime(), st.ModTime())
		},
		"mode":    func() error { return os.Chmod(file, 0o755) },
		"new":     func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		"removed": func() error { return os.Remove(filepath.Join(dir, "etc/link")) },
	} {
		time.Sleep(20 * time.Millisecond) // file times tick with the kernel's clock
		require.NoError(t, change(), name)
		_, err = s.Resolve(t.Context(), "dir:"+dir)
		require.ErrorIs(t, err, ErrNotFound, name)
		_, err = s.Pull(t.Context(), "dir:"+dir, PullOptions{})
		require.NoError(t, err, name)
	}
	img, err = s.Resolve(t.Context(), "dir:"+dir)
	require.NoError(t, err)
	requireContents(t, s, img, noise(2, 9000))

	// The same contents elsewhere are the same layer.
	twin := t.TempDir()
	require.NoError(t, os.CopyFS(twin, os.DirFS(filepath.Join(dir, "etc"))))
	_, err = s.Pull(t.Context(), "dir:"+twin, PullOptions{})
	require.NoError(t, err)
}

func TestTreeFaults(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	s := newStore(t)
	for ref, words := range map[string]string{
		"dir:" + dir + "/nope": "no such file",
		"dir:" + file:          "not a directory",
	} {
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		require.ErrorContains(t, err, words)
		require.ErrorContains(t, err, ref)
	}
	// As root everything can be read; the message is for everybody else.
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.Mkdir(secret, 0o000))
	_, err := s.Pull(t.Context(), "dir:"+dir, PullOptions{})
	if syscall.Geteuid() == 0 {
		require.NoError(t, err)
		return
	}
	require.ErrorContains(t, err, "secret: permission denied")
	requireEmpty(t, s)
}
