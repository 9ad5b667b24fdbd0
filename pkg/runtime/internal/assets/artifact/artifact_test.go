package artifact

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSameFilesSameDigest(t *testing.T) {
	one := Build{Arch: "amd64", Kernel: File{[]byte("k"), "1"}, Initramfs: File{[]byte("i"), "2"}, Source: "3"}
	two := Build{Arch: "arm64", Kernel: File{[]byte("K"), "1"}, Initramfs: File{[]byte("I"), "2"}}
	digest := func(version string, builds ...Build) string {
		dir := t.TempDir()
		d, err := WriteLayout(dir, version, builds)
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(dir, "blobs", "sha256", d[len("sha256:"):]))
		return d
	}
	require.Equal(t, digest("v1", one, two), digest("v1", two, one))
	require.NotEqual(t, digest("v1", one, two), digest("v2", one, two))
	require.NotEqual(t, digest("v1", one, two), digest("v1", one))
	changed := one
	changed.Initramfs.Zstd = []byte("j")
	require.NotEqual(t, digest("v1", one), digest("v1", changed))

	_, err := WriteLayout(t.TempDir(), "v1", nil)
	require.Error(t, err)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = WriteLayout(file, "v1", []Build{one})
	require.Error(t, err)
}
