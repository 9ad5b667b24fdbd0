package erofs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchLayer is a layer with the shape of a Debian root: 7,000 files in 700
// folders, 100 MB, a few names each with mtimes of their own.
func benchLayer(t testing.TB) []byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	var members []member
	for d := range 700 {
		name := fmt.Sprintf("usr/share/package-%03d", d)
		members = append(members, dir(name, 0o755))
		for f := range 10 {
			size := 200 << (f * 7 / 6) // 200 bytes to 200 kB
			m := file(fmt.Sprintf("%s/file-%d.conf", name, f), string(data[:size]))
			if f%3 == 0 {
				m = m.at(stamp.AddDate(0, 0, d))
			}
			members = append(members, m)
		}
	}
	return layerTar(t, members...)
}

func BenchmarkConvertLayer(b *testing.B) {
	archive := benchLayer(b)
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := ConvertLayer(b.Context(), bytes.NewReader(archive), io.Discard, io.Discard, Options{})
		require.NoError(b, err)
	}
}

func BenchmarkMerge(b *testing.B) {
	l := convert(b, benchLayer(b))
	b.ReportAllocs()
	var info ImageInfo
	for b.Loop() {
		var err error
		info, err = Merge(b.Context(), io.Discard, []LayerSource{{Meta: bytes.NewReader(l.meta)}}, MergeOptions{})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(info.IndexSize), "index-bytes")
	b.ReportMetric(float64(info.Inodes), "inodes")
}

// BenchmarkDebian converts and merges the image of testdata/images.
func BenchmarkDebian(b *testing.B) {
	archives := debianLayers(b)
	l := convert(b, archives[0])
	b.Run("convert", func(b *testing.B) {
		b.SetBytes(int64(len(archives[0])))
		b.ReportAllocs()
		for b.Loop() {
			_, err := ConvertLayer(b.Context(), bytes.NewReader(archives[0]), io.Discard, io.Discard, Options{})
			require.NoError(b, err)
		}
		b.ReportMetric(float64(l.info.BlobSize), "blob-bytes")
		b.ReportMetric(float64(l.info.MetaSize), "meta-bytes")
	})
	b.Run("merge", func(b *testing.B) {
		b.ReportAllocs()
		var info ImageInfo
		for b.Loop() {
			var err error
			info, err = Merge(b.Context(), io.Discard, []LayerSource{{Meta: bytes.NewReader(l.meta)}}, MergeOptions{})
			require.NoError(b, err)
		}
		b.ReportMetric(float64(info.IndexSize), "index-bytes")
		b.ReportMetric(float64(info.Inodes), "inodes")
	})
}
