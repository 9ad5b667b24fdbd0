package erofs

import (
	"bytes"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzConvertLayer: any archive is refused with one of our errors, or becomes
// an image that the strict reader accepts, twice the same.
func FuzzConvertLayer(f *testing.F) {
	f.Add(layerTar(f, dir("d", 0o755), file("d/f", strings.Repeat("x", 700)), link("h", "d/f"), symlink("s", "d")), layerTar(f, file(".wh.d", "")))
	f.Add(layerTar(f, file("s/x", "1").xattr("user.a", "b")), layerTar(f, dir("s", 0o700), file("s/.wh..wh..opq", "")))
	f.Add(sparseHeader(f, "sparse", 1<<20, [][2]int64{{5000, 100}, {900_000, 3}}), []byte{})
	opts := Options{MaxBytes: 4 << 20, MaxFileSize: 1 << 24, MaxEntries: 1000}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		var layers []layer
		for _, a := range [][]byte{lower, upper} {
			l, err := tryConvert(t, a, opts)
			if err != nil {
				require.True(t, errors.Is(err, ErrFormat) || errors.Is(err, ErrLimit), err)
				continue
			}
			layers = append(layers, l)
		}
		img, err := tryMerge(t, layers...)
		if err != nil {
			require.True(t, errors.Is(err, ErrFormat) || errors.Is(err, ErrLimit), err)
			return
		}
		img.list(t)
		require.Equal(t, img.index, merged(t, layers...).index)
	})
}

// FuzzMergeMetadata: metadata that has the right checksum but any contents is
// refused, or becomes an image that the strict reader accepts and that stays
// inside its blob.
func FuzzMergeMetadata(f *testing.F) {
	for _, a := range [][]byte{
		layerTar(f, dir("d", 0o755), file("d/f", strings.Repeat("x", 5000)), link("h", "d/f"), symlink("s", "d"), file("s/y", "z")),
		layerTar(f, file(".wh.a", ""), file("d/.wh..wh..opq", ""), file("i", "inline").xattr("user.a", "1")),
		sparseHeader(f, "sparse", 1<<20, [][2]int64{{5000, 100}, {900_000, 3}}),
	} {
		m := convert(f, a).meta
		f.Add(m[:len(m)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		meta := le.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		info, err := ReadLayerInfo(bytes.NewReader(meta))
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			return
		}
		if info.BlobSize > 1<<24 {
			return // the device is made for the reader below
		}
		l := layer{info, make([]byte, info.BlobSize), meta}
		img, err := tryMerge(t, l, l)
		if err != nil {
			require.True(t, errors.Is(err, ErrFormat) || errors.Is(err, ErrLimit), err)
			return
		}
		img.list(t)
	})
}

// FuzzReadImageInfo: no index makes the decoder fail in any other way than
// with an error.
func FuzzReadImageInfo(f *testing.F) {
	f.Add(build(f, layerTar(f, file("f", strings.Repeat("x", 5000)))).index)
	f.Fuzz(func(t *testing.T, index []byte) {
		info, err := ReadImageInfo(bytes.NewReader(index))
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			return
		}
		require.LessOrEqual(t, len(info.Parts), maxParts)
	})
}
