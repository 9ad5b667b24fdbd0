package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConsoleFollower prints to a log as the VM process does.
func TestConsoleFollower(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	var got strings.Builder
	f := consoleFollower{log: fileFollower{path: path}, w: &got}
	defer f.log.close()
	print := func(text string) {
		log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		require.NoError(t, err)
		_, err = log.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, log.Close())
	}
	sees := func(want string) {
		t.Helper()
		require.NoError(t, f.log.copy(f.write))
		require.Equal(t, want, got.String())
		got.Reset()
	}
	require.NoError(t, f.begin(-1))
	sees("")
	print("one\ntwo")
	sees("one\ntwo")
	print("\nthree \x1b[2J \xc3")
	sees("\nthree .[2J ")
	print("\xa4\r\n")
	sees("ä\n")
	print("end\n")
	require.NoError(t, os.Rename(path, path+".1"))
	sees("") // until there is another
	print("begin\n")
	sees("end\nbegin\n")
	print(strings.Repeat("x", 100<<10))
	sees(strings.Repeat("x", 100<<10))
	print("\xe2\x82")
	sees("")
	require.NoError(t, f.flush())
	require.Equal(t, "..", got.String())

	for n, want := range map[int]string{-1: "a\nb\nc\n", 0: "", 1: "c\n", 2: "b\nc\n", 9: "a\nb\nc\n"} {
		path := filepath.Join(t.TempDir(), "log")
		require.NoError(t, os.WriteFile(path+".1", []byte("a\nb\n"), 0o600))
		require.NoError(t, os.WriteFile(path, []byte("c\n"), 0o600))
		var got strings.Builder
		f := consoleFollower{log: fileFollower{path: path}, w: &got}
		require.NoError(t, f.begin(n))
		require.NoError(t, f.log.copy(f.write))
		require.Equal(t, want, got.String())
		f.log.close()
	}

	f.w = brokenWriter{}
	print("more")
	require.ErrorIs(t, f.log.copy(f.write), errBroken)
	require.ErrorIs(t, f.err, errBroken)
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

// TestFollowConsole follows a box that does not run.
func TestFollowConsole(t *testing.T) {
	rt := plainRuntime(t)
	b, err := rt.Create(t.Context(), BoxOptions{KeepOnStop: true}, "one")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(b.ConsolePath()), 0o700))
	require.NoError(t, os.WriteFile(b.ConsolePath(), []byte("a\nb\n"), 0o600))
	var got strings.Builder
	require.NoError(t, b.FollowConsole(t.Context(), &got, 1))
	require.Equal(t, "b\n", got.String())
	require.ErrorIs(t, b.FollowConsole(t.Context(), brokenWriter{}, -1), errBroken)
	require.NoError(t, rt.Remove(t.Context(), "one", true))
	require.ErrorIs(t, b.FollowConsole(t.Context(), &got, 1), ErrNotFound)
}
