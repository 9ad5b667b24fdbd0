package erofs

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/oci/erofs/erofstest"
)

var stamp = time.Date(2024, 2, 29, 12, 34, 56, 123456789, time.UTC)

// member is one member of a test layer: a tar header with a few short cuts.
type member struct {
	tar.Header
	data string
}

func dir(name string, mode int64) member {
	return member{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func file(name, data string) member {
	return member{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, data: data}
}

func symlink(name, target string) member {
	return member{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func link(name, target string) member {
	return member{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func (m member) owned(uid, gid int) member { m.Uid, m.Gid = uid, gid; return m }
func (m member) at(t time.Time) member     { m.ModTime = t; return m }
func (m member) mode(mode int64) member    { m.Mode = mode; return m }

func (m member) xattr(name, value string) member {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range m.PAXRecords {
		records[k] = v
	}
	m.PAXRecords = records
	return m
}

// layerTar writes the members as a PAX archive.
func layerTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.Header
		h.Format = tar.FormatPAX
		h.Size = int64(len(m.data))
		if h.ModTime.IsZero() {
			h.ModTime = stamp
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, m.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// layer is a converted layer.
type layer struct {
	info LayerInfo
	blob []byte
	meta []byte
}

func convert(t testing.TB, archive []byte) layer {
	t.Helper()
	l, err := tryConvert(t, archive, Options{})
	require.NoError(t, err)
	return l
}

func tryConvert(t testing.TB, archive []byte, opts Options) (layer, error) {
	t.Helper()
	var blob, meta bytes.Buffer
	info, err := ConvertLayer(t.Context(), bytes.NewReader(archive), &blob, &meta, opts)
	if err != nil {
		require.Zero(t, info)
		return layer{}, err
	}
	require.EqualValues(t, blob.Len(), info.BlobSize)
	require.EqualValues(t, meta.Len(), info.MetaSize)
	require.Zero(t, blob.Len()%BlockSize)
	again, err := ReadLayerInfo(bytes.NewReader(meta.Bytes()))
	require.NoError(t, err)
	require.Equal(t, info, again)
	return layer{info, blob.Bytes(), meta.Bytes()}, nil
}

// image is a merged image: the index, and the device as the VMM shows it.
type image struct {
	info   ImageInfo
	index  []byte
	device []byte
	layers []layer
}

func merged(t testing.TB, layers ...layer) image {
	t.Helper()
	img, err := tryMerge(t, layers...)
	require.NoError(t, err)
	return img
}

func tryMerge(t testing.TB, layers ...layer) (image, error) {
	t.Helper()
	var sources []LayerSource
	blobs := make(map[string][]byte)
	for _, l := range layers {
		sources = append(sources, LayerSource{Meta: bytes.NewReader(l.meta)})
		blobs[l.info.DiffID] = l.blob
	}
	var index bytes.Buffer
	info, err := Merge(t.Context(), &index, sources, MergeOptions{})
	if err != nil {
		require.Zero(t, index.Len())
		return image{}, err
	}
	require.EqualValues(t, index.Len(), info.IndexSize)
	device := bytes.Clone(index.Bytes())
	for _, p := range info.Parts {
		require.EqualValues(t, len(device), p.Offset)
		require.EqualValues(t, len(blobs[p.DiffID]), p.Size)
		device = append(device, blobs[p.DiffID]...)
	}
	require.EqualValues(t, len(device), info.TotalSize)
	again, err := ReadImageInfo(bytes.NewReader(index.Bytes()))
	require.NoError(t, err)
	require.Equal(t, info, again)
	return image{info, index.Bytes(), device, layers}, nil
}

// build converts and merges archives.
func build(t testing.TB, archives ...[]byte) image {
	t.Helper()
	var layers []layer
	for _, a := range archives {
		layers = append(layers, convert(t, a))
	}
	return merged(t, layers...)
}

// walk reads the image back with the reader that shares no code with the
// writer.
func (img image) walk(t testing.TB) map[string]erofstest.File {
	t.Helper()
	out := make(map[string]erofstest.File)
	for _, f := range img.list(t) {
		out[f.Path] = f
	}
	return out
}

func (img image) list(t testing.TB) []erofstest.File {
	t.Helper()
	files, err := img.open(t).Walk()
	require.NoError(t, err)
	return files
}

func (img image) open(t testing.TB) *erofstest.Image {
	t.Helper()
	r, err := erofstest.Open(bytes.NewReader(img.device), int64(len(img.device)))
	require.NoError(t, err)
	return r
}

// paths returns the names in the image, without the root.
func (img image) paths(t testing.TB) []string {
	t.Helper()
	out := []string{}
	for _, f := range img.list(t) {
		if f.Path != "." {
			out = append(out, f.Path)
		}
	}
	return out
}

// text returns the contents of a file.
func (img image) text(t testing.TB, path string) string {
	t.Helper()
	r := img.open(t)
	n, err := r.Lookup(path)
	require.NoError(t, err)
	b := make([]byte, n.Size)
	_, err = r.ReadAt(n, b, 0)
	require.NoError(t, err)
	return string(b)
}
