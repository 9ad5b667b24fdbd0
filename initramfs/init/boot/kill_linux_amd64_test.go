package boot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/killtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// populateEnv makes this test binary a program that fills a volume with the image's
// content: "VOLUME|IMAGE".
const populateEnv = "BOXLITE_TEST_POPULATE"

func TestMain(m *testing.M) {
	if arg := os.Getenv(populateEnv); arg != "" {
		dir, image, _ := strings.Cut(arg, "|")
		killtest.Begin()
		if err := populate(dir, image); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestPopulateKilled kills who fills a volume before each change that it makes there.
// What is left is either complete, or seen not to be, as the VM process tells it (see
// vmm's unfilled), and completed by the next one.
func TestPopulateKilled(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	image := t.TempDir()
	require.NoError(t, os.MkdirAll(image+"/sub/deep", 0o750))
	require.NoError(t, os.WriteFile(image+"/sub/deep/f", []byte(strings.Repeat("content", 20000)), 0o640))
	require.NoError(t, os.WriteFile(image+"/g", nil, 0o400))
	require.NoError(t, os.Link(image+"/g", image+"/h"))
	require.NoError(t, os.Symlink("sub/deep/f", image+"/link"))
	require.NoError(t, unix.Mkfifo(image+"/fifo", 0o600))
	require.NoError(t, os.Chmod(image, 0o711))
	want := describe(t, image)
	for n := 0; ; n++ {
		dir := t.TempDir()
		errs, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		require.NoError(t, err)
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), populateEnv+"="+dir+"|"+image)
		cmd.Stderr = errs
		killed, err := killtest.Run(cmd, n)
		errs.Close()
		said, rerr := os.ReadFile(errs.Name())
		require.NoError(t, rerr)
		require.NoError(t, err, "%s", said)

		names, err := list(unix.AT_FDCWD, dir)
		require.NoError(t, err)
		unfinished := len(names) == 0 || contains(names, agentapi.Populating) || contains(names, agentapi.Populated)
		if !unfinished {
			require.Equal(t, want, describe(t, dir), "at %d it looks complete", n)
		}
		require.NoError(t, populate(dir, image), "after %d", n)
		require.Equal(t, want, describe(t, dir), "after %d", n)
		if !killed {
			require.False(t, unfinished)
			t.Logf("killed at %d moments", n)
			require.Greater(t, n, 20)
			return
		}
	}
}

// describe lists a tree with all that a copy is to keep.
func describe(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		require.NoError(t, err)
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%s %v %d:%d", rel, fi.Mode(), st.Uid, st.Gid)
		if rel != "." {
			line += fmt.Sprintf(" %d links, of %d", st.Nlink, st.Mtim.Nano())
		}
		switch {
		case fi.Mode().IsRegular():
			p, err := os.ReadFile(path)
			require.NoError(t, err)
			line += " " + string(p)
		case fi.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			require.NoError(t, err)
			line += " " + to
		}
		all = append(all, line)
		return nil
	}))
	return all
}
