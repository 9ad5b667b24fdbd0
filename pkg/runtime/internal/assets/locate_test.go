package assets

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLocate holds Locate to what Find does.
func TestLocate(t *testing.T) {
	home, env := t.TempDir(), filepath.Join(t.TempDir(), "from-env")
	require.NoError(t, os.WriteFile(env, []byte("kernel"), 0o600))
	same := func(given, source string) {
		t.Helper()
		want, err := Kernel.Find(given, home)
		require.NoError(t, err)
		path, from := Kernel.Locate(given, home)
		require.Equal(t, want, path)
		require.Equal(t, source, from)
	}
	t.Setenv(Kernel.env, "")
	path, source := Kernel.Locate("", home)
	if _, err := files.Open("files/" + Kernel.name + ".sha256"); err == nil {
		same("", "built in")
	} else {
		require.Empty(t, path)
		require.Empty(t, source)
		require.NoError(t, os.MkdirAll(filepath.Join(home, "kernel"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(home, "kernel", Kernel.name), []byte("kernel"), 0o600))
		same("", "home directory")
	}
	t.Setenv(Kernel.env, env)
	same("", "$BOXLITE_KERNEL")
	same(env, "option")
}
