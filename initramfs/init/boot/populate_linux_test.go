package boot

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
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
			names, err := list(dir)
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
