package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// The same layers give the same bytes, however they arrive.
func TestSameInputGivesSameBytes(t *testing.T) {
	t.Parallel()
	archives := [][]byte{
		layerTar(t, dir("d", 0o755), file("d/a", "1").xattr("user.b", "2").xattr("user.a", "1").xattr("trusted.c", "3"),
			file("big", string(bytes.Repeat([]byte("xyz"), 5000))), link("hard", "big"), file("z", "")),
		layerTar(t, file("d/b", "2"), file("d/.wh.a", ""), symlink("l", "d")),
	}
	first := build(t, archives...)
	for range 5 {
		require.Equal(t, first, build(t, archives...))
	}
	var blob, meta bytes.Buffer
	info, err := ConvertLayer(t.Context(), iotest.HalfReader(bytes.NewReader(archives[0])), &blob, &meta, Options{})
	require.NoError(t, err)
	require.Equal(t, first.layers[0], layer{info, blob.Bytes(), meta.Bytes()})

	sum := sha256.Sum256(archives[0])
	require.Equal(t, hex.EncodeToString(sum[:]), info.DiffID)
	require.EqualValues(t, len(archives[0]), info.TarBytes)
}

// A change of these bytes invalidates every cache: change metaMagic with it.
func TestFormatIsPinned(t *testing.T) {
	t.Parallel()
	img := build(t, layerTar(t, dir("d", 0o755), file("d/a", "1").xattr("user.a", "1"), file("e", string(make([]byte, 6000))), symlink("l", "d")))
	sum := sha256.Sum256(append(bytes.Clone(img.layers[0].meta), img.device...))
	require.Equal(t, "blerofs1 88aba9e1de175c89", metaMagic+" "+hex.EncodeToString(sum[:8]))
}

// Another content is another UUID, even if only a blob differs.
func TestUUIDFollowsTheContents(t *testing.T) {
	t.Parallel()
	a := build(t, layerTar(t, file("f", string(bytes.Repeat([]byte("a"), 5000)))))
	b := build(t, layerTar(t, file("f", string(bytes.Repeat([]byte("b"), 5000)))))
	require.NotEqual(t, a.info.UUID, b.info.UUID)
}

func TestConversionDoesNotAllocatePerByte(t *testing.T) {
	small := layerTar(t, file("f", string(make([]byte, 1<<20))))
	large := layerTar(t, file("f", string(make([]byte, 16<<20))))
	allocs := func(archive []byte) float64 {
		return testing.AllocsPerRun(3, func() {
			_, err := ConvertLayer(t.Context(), bytes.NewReader(archive), discard{}, discard{}, Options{})
			require.NoError(t, err)
		})
	}
	require.InDelta(t, allocs(small), allocs(large), 3)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
