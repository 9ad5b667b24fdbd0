package proof

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// TestGuestVolumeGo clones a Go module and builds it, all on volumes: the repository, the
// checkout, Go itself and its cache. The program must be the one that this host's makers
// got from the same source, to the last byte.
func TestGuestVolumeGo(t *testing.T) {
	from := machinetest.Go(t)
	work := t.TempDir()
	require.NoError(t, os.Chmod(work, 0o755))
	for _, name := range []string{"module.git", "cache"} {
		require.NoError(t, os.CopyFS(filepath.Join(work, name), os.DirFS(filepath.Join(from, name))))
	}
	b := box(t, "debian-programs", func(o *runtime.BoxOptions) {
		o.MemoryMiB = 1024
		o.Volumes = []runtime.VolumeSpec{
			{HostPath: filepath.Join(from, "root"), GuestPath: "/usr/local/go", ReadOnly: true},
			{HostPath: work, GuestPath: "/work"},
		}
	})
	goes := func(format string, args ...any) runtime.BoxCommand {
		return sh("export PATH=/usr/local/go/bin:$PATH HOME=/root GOCACHE=/work/cache\n"+
			"export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOPROXY=off GOGC=off\n"+format, args...)
	}
	t.Run("git clone", func(t *testing.T) { output(t, b, sh("git clone -q /work/module.git /work/src")) })
	t.Run("go build", func(t *testing.T) {
		compiled := output(t, b, goes(`cd /work/src
go build -x -trimpath -ldflags='-s -w' -o /work/program . 2>/work/log
grep -o 'compile .* -p [^ ]*' /work/log | sed 's/.* -p //' | sort`))
		require.Equal(t, "main\nwords.test/words/split\nwords.test/words/tally\n", compiled, "nothing of the standard library")
		require.Empty(t, output(t, b, sh("git -C /work/src status --porcelain")))
		require.Equal(t, "3 a\n2 b\n1 c\n", output(t, b, sh("printf 'a b\n\nC, A! b a' | /work/program")))
	})
	t.Run("the same program", func(t *testing.T) {
		want, err := os.ReadFile(filepath.Join(from, "program"))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(work, "program"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "%d bytes, want these %d", len(got), len(want))
	})
	t.Run("the host's view", func(t *testing.T) {
		require.Greater(t, sameFiles(t, b, "/work/src", filepath.Join(work, "src")), 20)
	})
}
