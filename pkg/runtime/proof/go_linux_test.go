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
	out := output(t, b, sh(`export PATH=/usr/local/go/bin:$PATH HOME=/root GOCACHE=/work/cache
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOPROXY=off
git clone -q /work/module.git /work/src
cd /work/src
go version >&2
go build -x -trimpath -o /work/program . 2>/work/log
grep -o 'compile .* -p [^ ]*' /work/log | sed 's/.* -p //' | sort
git status --porcelain`))
	require.Equal(t, "main\nwords.test/words/split\nwords.test/words/tally\n", out, "what was compiled: nothing of the standard library")
	require.Equal(t, "3 a\n2 b\n1 c\n", output(t, b, sh("printf 'a b\n\nC, A! b a' | /work/program")))

	want, err := os.ReadFile(filepath.Join(from, "program"))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(work, "program"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "another program, of %d bytes instead of %d", len(got), len(want))
	require.Greater(t, sameFiles(t, b, "/work/src", filepath.Join(work, "src")), 20)
	require.Greater(t, sameFiles(t, b, "/usr/local/go/bin", filepath.Join(from, "root", "bin")), 0)
}
