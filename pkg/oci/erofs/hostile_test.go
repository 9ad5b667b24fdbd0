package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Case 51 of the hostile list: layers made to break out of the root, out of
// memory or out of disk are refused or stay inside.

func TestHostile51PathsStayInsideTheRoot(t *testing.T) {
	t.Parallel()
	img := build(t, layerTar(t,
		file("/etc/absolute", "1"), file("../../../etc/climb", "2"), file("a/../../b", "3"), dir("..", 0o755),
		symlink("out", "/"), file("out/through", "4"),
		symlink("up", "../../.."), file("up/through-up", "5"),
	))
	require.ElementsMatch(t, []string{
		"etc", "etc/absolute", "etc/climb", "b", "out", "through", "up", "through-up",
	}, img.paths(t))
	require.Equal(t, "4", img.text(t, "through"))
	require.Equal(t, "5", img.text(t, "through-up"))
}

// A link that leads to itself by way of the path it is needed for.
func TestHostile51LinkNamedLikeItsTargetsParent(t *testing.T) {
	t.Parallel()
	_, err := tryMerge(t, convert(t, layerTar(t, symlink("proc", "/proc/self/root"), file("proc/x", "6"))))
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "symbolic links")
}

func TestHostile51HardLinkToOutside(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/etc/shadow", "../../etc/shadow", "up/etc/shadow"} {
		_, err := tryMerge(t, convert(t, layerTar(t, symlink("up", "../../.."), link("mine", target))))
		require.ErrorIs(t, err, ErrFormat, target)
		require.ErrorContains(t, err, `"mine"`)
		require.ErrorContains(t, err, "etc/shadow")
	}
}

func TestHostile51WhiteoutOfTheParent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{".wh..", ".wh...", "a/.wh..", "a/.wh...", ".wh.", ".wh.x/y"} {
		_, err := tryConvert(t, layerTar(t, file(name, "")), Options{})
		require.ErrorIs(t, err, ErrFormat, name)
	}
	// ".wh./.." is the root, which is there already.
	img := build(t, layerTar(t, file("a", "1")), layerTar(t, dir(".wh./..", 0o700)))
	require.Equal(t, []string{"a"}, img.paths(t))
}

func TestHostile51DeviceNodes(t *testing.T) {
	t.Parallel()
	node := func(major, minor int64) []byte {
		return layerTar(t, member{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: major, Devminor: minor}})
	}
	img := build(t, node(8, 0)) // a name for the guest; nothing is made on the host
	require.EqualValues(t, 8, img.walk(t)["sda"].Major)
	for _, n := range [][2]int64{{1 << 12, 0}, {0, 1 << 20}} {
		_, err := tryConvert(t, node(n[0], n[1]), Options{})
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, "sda")
	}
}

func TestHostile51OwnersAndNames(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		m    member
		want error
		text string
	}{
		"uid 2^33":             {file("f", "").owned(1<<33, 0), ErrFormat, "8589934592"},
		"gid 2^32-1, no group": {file("f", "").owned(0, 1<<32-1), ErrFormat, "gid"},
		"uid -1":               {file("f", "").owned(-1, 0), ErrFormat, "uid"},
		"component of 256":     {file("a/"+strings.Repeat("n", 256), ""), ErrLimit, "256"},
		"path of 4097":         {file(strings.Repeat("n/", 2048)+"n", ""), ErrLimit, "4097"},
		"link to 4096":         {symlink("l", strings.Repeat("t", 4096)), ErrLimit, "4096"},
		"hard link of 4097":    {link("l", strings.Repeat("t/", 2048)+"t"), ErrLimit, "4097"},
		"xattr of 65536":       {file("f", "").xattr("user.a", strings.Repeat("v", 65536)), ErrLimit, "65536"},
		"xattr name of 256":    {file("f", "").xattr("user."+strings.Repeat("a", 251), "v"), ErrFormat, "256"},
		"xattrs of 180 kB in all": {file("f", "").xattr("user.a", strings.Repeat("v", 60_000)).
			xattr("user.b", strings.Repeat("v", 60_000)).xattr("user.c", strings.Repeat("v", 60_000)), ErrLimit, "attributes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tryConvert(t, layerTar(t, tt.m), Options{})
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.text)
			require.Less(t, len(err.Error()), 500)
		})
	}
	l := convert(t, layerTar(t, file("f", "").xattr("com.apple.quarantine", "x").xattr("system.other", "y").xattr("user.ok", "z")))
	require.Equal(t, 2, l.info.DroppedXattrs)
	require.Equal(t, map[string]string{"user.ok": "z"}, merged(t, l).walk(t)["f"].Xattrs)
}

func TestHostile51DuplicatesAndCaseCollisions(t *testing.T) {
	t.Parallel()
	var members []member
	for i := range 500 {
		members = append(members, file("same", fmt.Sprint(i)), file(fmt.Sprintf("%c%c", 'a'+i%26-32*(i/26%2), 'x'), "c"))
	}
	img := build(t, layerTar(t, members...))
	require.Equal(t, "499", img.text(t, "same"))
	require.Len(t, img.paths(t), 53)
}

func TestHostile51ZeroLayers(t *testing.T) {
	t.Parallel()
	var index bytes.Buffer
	_, err := Merge(t.Context(), &index, nil, MergeOptions{})
	require.ErrorIs(t, err, ErrFormat)
	require.Zero(t, index.Len())
}

// generated streams headers without keeping them.
type generated struct {
	next func() []byte
	buf  []byte
}

func (g *generated) Read(p []byte) (int, error) {
	if len(g.buf) == 0 {
		if g.buf = g.next(); g.buf == nil {
			return 0, io.EOF
		}
	}
	n := copy(p, g.buf)
	g.buf = g.buf[n:]
	return n, nil
}

// A million names in one folder, in an order that is not theirs.
func TestHostile51MillionEntries(t *testing.T) {
	t.Parallel()
	count := 1_000_000
	if raceEnabled {
		count = 100_000 // the detector makes it a minute
	}
	members := func() io.Reader {
		h := layerTar(t, file("d/00000000", "").at(time.Unix(1, 0)))[:512]
		i := 0
		return &generated{next: func() []byte {
			if i == count {
				return nil
			}
			i++
			hex.Encode(h[2:10], binary.BigEndian.AppendUint32(nil, uint32(i)*2654435761))
			fixChecksum(h)
			return h
		}}
	}
	_, err := ConvertLayer(t.Context(), members(), io.Discard, io.Discard, Options{MaxEntries: 1000})
	require.ErrorIs(t, err, ErrLimit)

	var meta bytes.Buffer
	info, err := ConvertLayer(t.Context(), members(), io.Discard, &meta, Options{})
	require.NoError(t, err)
	require.Equal(t, count, info.Entries)
	var index bytes.Buffer
	image, err := Merge(t.Context(), &index, []LayerSource{{Meta: bytes.NewReader(meta.Bytes())}}, MergeOptions{})
	require.NoError(t, err)
	require.EqualValues(t, count+2, image.Inodes)

	for _, o := range []MergeOptions{{MaxInodes: 1000}, {MaxMeta: 1000}} {
		_, err := Merge(t.Context(), io.Discard, []LayerSource{{Meta: bytes.NewReader(meta.Bytes())}}, o)
		require.ErrorIs(t, err, ErrLimit)
	}
}

func TestHostile51IndexHasALimit(t *testing.T) {
	t.Parallel()
	var members []member
	for i := range 1000 {
		members = append(members, file(fmt.Sprint(i), "inline"))
	}
	l := convert(t, layerTar(t, members...))
	for _, limit := range []int64{8 << 10, 40 << 10} {
		_, err := Merge(t.Context(), io.Discard, []LayerSource{{Meta: bytes.NewReader(l.meta)}}, MergeOptions{MaxIndex: limit})
		require.ErrorIs(t, err, ErrLimit)
	}
}

// sparseHeader is a PAX 1.0 sparse file with the given map.
func sparseHeader(t testing.TB, name string, size int64, segments [][2]int64) []byte {
	t.Helper()
	var body bytes.Buffer
	fmt.Fprintf(&body, "%d\n", len(segments))
	for _, s := range segments {
		fmt.Fprintf(&body, "%d\n%d\n", s[0], s[1])
	}
	body.Write(make([]byte, -body.Len()&511))
	for _, s := range segments {
		body.Write(bytes.Repeat([]byte{'s'}, int(s[1])))
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	records := ""
	for _, kv := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", name}, {"GNU.sparse.realsize", fmt.Sprint(size)}} {
		r := fmt.Sprintf(" %s=%s\n", kv[0], kv[1])
		records += fmt.Sprintf("%d%s", len(r)+2, r)
	}
	// archive/tar does not let callers write these records.
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders/x", Size: int64(len(records)), Format: tar.FormatUSTAR}))
	_, err := io.WriteString(w, records)
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	b.Bytes()[156] = 'x'
	fixChecksum(b.Bytes())
	at := b.Len()
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/x", Mode: 0o644, Size: int64(body.Len()), Format: tar.FormatUSTAR}))
	_, err = w.Write(body.Bytes())
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_ = at
	return b.Bytes()
}

func fixChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestHostile51TerabyteOfHoles(t *testing.T) {
	t.Parallel()
	const tib = 1 << 40
	archive := sparseHeader(t, "huge", tib, [][2]int64{{5 << 30, 3}, {tib - 7, 7}})
	img := build(t, archive)
	require.Less(t, len(img.device), 16<<20)
	r := img.open(t)
	n, err := r.Lookup("huge")
	require.NoError(t, err)
	require.EqualValues(t, tib, n.Size)
	b := make([]byte, 9)
	_, err = r.ReadAt(n, b, 5<<30-3)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00\x00sss\x00\x00\x00", string(b))
	_, err = r.ReadAt(n, b, tib-9)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00sssssss", string(b))

	_, err = tryConvert(t, sparseHeader(t, "beyond", 1<<60, nil), Options{})
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorContains(t, err, "beyond")
	// Bytes spread so that neither small nor large chunks are cheap.
	var spread [][2]int64
	for i := range int64(20_000) {
		spread = append(spread, [2]int64{i * (16 << 40 / 20_000), 1})
	}
	_, err = tryConvert(t, sparseHeader(t, "spread", 16<<40, spread), Options{})
	require.ErrorIs(t, err, ErrLimit)
}

func TestHostile51SparseMapsThatLie(t *testing.T) {
	t.Parallel()
	for name, m := range map[string][][2]int64{
		"overlap":     {{0, 100}, {50, 100}},
		"out of size": {{0, 100}, {900, 200}},
		"backwards":   {{500, 100}, {0, 100}},
	} {
		_, err := tryConvert(t, sparseHeader(t, name, 1000, m), Options{})
		require.ErrorIs(t, err, ErrFormat, name)
	}
}

// zeros that never end, as a decompressor makes of a few bytes.
type zeroes struct{ n int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	z.n += int64(len(p))
	clear(p)
	return len(p), nil
}

func TestHostile51DecompressionBomb(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	require.NoError(t, tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bomb", Size: 1 << 45}))
	header := b.Bytes()

	z := &zeroes{}
	_, err := ConvertLayer(t.Context(), io.MultiReader(bytes.NewReader(header), z), io.Discard, io.Discard, Options{MaxBytes: 50 << 20})
	require.ErrorIs(t, err, ErrLimit)
	require.Less(t, z.n, int64(60<<20))

	z = &zeroes{}
	_, err = ConvertLayer(t.Context(), io.MultiReader(bytes.NewReader(header), z), io.Discard, io.Discard,
		Options{Compressed: func() int64 { return 1 << 20 }, MaxRatio: 10})
	require.ErrorIs(t, err, ErrLimit)
	require.Less(t, z.n, int64(ratioFloor+60<<20))

	// Zeros behind the end of the archive are part of the digest, and limited.
	z = &zeroes{}
	_, err = ConvertLayer(t.Context(), z, io.Discard, io.Discard, Options{MaxBytes: 50 << 20})
	require.ErrorIs(t, err, ErrLimit)
}

func TestHostile51DeepAndTwistedTrees(t *testing.T) {
	t.Parallel()
	// Each link leads deeper, so that names stay short and the tree does not.
	members := []member{}
	at := ""
	for i := range 40 {
		deep := at + strings.Repeat("d/", 1000)
		members = append(members, dir(strings.TrimSuffix(deep, "/"), 0o755), symlink(fmt.Sprint("l", i), target(i)))
		at = fmt.Sprint("l", i, "/")
	}
	_, err := tryMerge(t, convert(t, layerTar(t, members...)))
	require.ErrorIs(t, err, ErrLimit)

	// Links that double the way at each step.
	members = []member{dir("d", 0o755), symlink("l0", "d")}
	for i := range 30 {
		members = append(members, symlink(fmt.Sprint("l", i+1), fmt.Sprintf("l%d/../l%d", i, i)))
	}
	members = append(members, file("l30/x", ""))
	_, err = tryMerge(t, convert(t, layerTar(t, members...)))
	require.ErrorIs(t, err, ErrFormat)
}

func target(i int) string {
	if i == 0 {
		return strings.TrimSuffix(strings.Repeat("d/", 1000), "/")
	}
	return fmt.Sprint("l", i-1, "/", strings.TrimSuffix(strings.Repeat("d/", 1000), "/"))
}

// Opaque markers that walk a large folder again and again.
func TestHostile51QuadraticWhiteouts(t *testing.T) {
	t.Parallel()
	var members []member
	for i := range 2000 {
		members = append(members, file(fmt.Sprint("d/", i), ""))
	}
	for range 20_000 {
		members = append(members, file("d/.wh..wh..opq", ""))
	}
	_, err := tryMerge(t, convert(t, layerTar(t, members...)))
	require.ErrorIs(t, err, ErrLimit)
}

func TestHostile51TruncatedAnywhere(t *testing.T) {
	t.Parallel()
	archive := layerTar(t, dir("d", 0o755), file("d/f", strings.Repeat("x", 3000)).xattr("user.a", "b"), symlink("l", "d"))
	whole := convert(t, archive)
	for n := 0; n < len(archive); n += 100 {
		l, err := tryConvert(t, archive[:n], Options{})
		if err == nil { // at a member's end, as archive/tar has it; the digest tells
			require.NotEqual(t, whole.info.DiffID, l.info.DiffID)
		}
	}
}

// Errors of the caller's reader and writers come back, and the context ends a
// conversion.
func TestFailuresOfOthersComeBack(t *testing.T) {
	t.Parallel()
	archive := layerTar(t, file("f", strings.Repeat("x", 1<<20)))
	broken := errors.New("broken")
	_, err := ConvertLayer(t.Context(), io.MultiReader(bytes.NewReader(archive[:5000]), failing{broken}), io.Discard, io.Discard, Options{})
	require.ErrorIs(t, err, broken)
	_, err = ConvertLayer(t.Context(), bytes.NewReader(archive), failing{broken}, io.Discard, Options{})
	require.ErrorIs(t, err, broken)
	_, err = ConvertLayer(t.Context(), bytes.NewReader(archive), io.Discard, failing{broken}, Options{})
	require.ErrorIs(t, err, broken)
	l := convert(t, archive)
	_, err = Merge(t.Context(), failing{broken}, []LayerSource{{Meta: bytes.NewReader(l.meta)}}, MergeOptions{})
	require.ErrorIs(t, err, broken)
	_, err = Merge(t.Context(), io.Discard, []LayerSource{{Meta: failing{broken}}}, MergeOptions{})
	require.ErrorIs(t, err, broken)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = ConvertLayer(ctx, bytes.NewReader(archive), io.Discard, io.Discard, Options{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = Merge(ctx, io.Discard, []LayerSource{{Meta: bytes.NewReader(l.meta)}}, MergeOptions{})
	require.ErrorIs(t, err, context.Canceled)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Metadata from a damaged cache is refused, whatever bit is wrong.
func TestDamagedMetadataIsRefused(t *testing.T) {
	t.Parallel()
	l := convert(t, layerTar(t, dir("d", 0o755), file("d/f", strings.Repeat("x", 5000)), link("h", "d/f")))
	for i := range l.meta {
		for _, m := range [][]byte{l.meta[:i], append(append(bytes.Clone(l.meta[:i]), l.meta[i]^1), l.meta[i+1:]...)} {
			_, err := ReadLayerInfo(bytes.NewReader(m))
			require.ErrorIs(t, err, ErrFormat)
		}
	}
	img := merged(t, l)
	for _, i := range []int{0, 9, 13, 17, 1024, 1030, 1060, 1100, 1152, 1185, 2000} {
		b := bytes.Clone(img.index)
		b[i] ^= 1
		_, err := ReadImageInfo(bytes.NewReader(b))
		require.ErrorIs(t, err, ErrFormat, i)
	}
	_, err := ReadImageInfo(bytes.NewReader(img.index[:1000]))
	require.ErrorIs(t, err, ErrFormat)
}
