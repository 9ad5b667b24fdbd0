package erofs

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// debianLayers returns the layers of the Debian image that testdata/images
// builds.
func debianLayers(t testing.TB) [][]byte {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "build", "images", "debian-python")
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		msg := "no Debian image: run testdata/images/build"
		if os.Getenv("BOXLITE_REQUIRE_TOOLS") != "" {
			t.Fatal(msg)
		}
		t.Skip(msg)
	}
	type descriptor struct{ Digest string }
	read := func(digest string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "blobs", strings.Replace(digest, ":", "/", 1)))
		require.NoError(t, err)
		return b
	}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index struct{ Manifests []descriptor }
	require.NoError(t, json.Unmarshal(b, &index))
	var manifest struct{ Layers []descriptor }
	require.NoError(t, json.Unmarshal(read(index.Manifests[0].Digest), &manifest))
	var out [][]byte
	for _, l := range manifest.Layers {
		z, err := gzip.NewReader(bytes.NewReader(read(l.Digest)))
		require.NoError(t, err)
		archive, err := io.ReadAll(z)
		require.NoError(t, err)
		out = append(out, archive)
	}
	return out
}
