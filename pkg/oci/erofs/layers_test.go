package erofs

import (
	"archive/tar"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What an archive says about a file must come back from the image.
func TestEveryAttributeOfEveryKind(t *testing.T) {
	t.Parallel()
	old := time.Unix(-86400, 999_999_999)
	long := strings.Repeat("t", 4095)
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff"
	img := build(t, layerTar(t,
		dir(".", 0o751).owned(7, 8),
		file("empty", ""),
		file("small", "hello").mode(0o4755).owned(1000, 100_000).at(old),
		file("inline-limit", strings.Repeat("i", inlineMax)),
		file("first-block", strings.Repeat("b", inlineMax+1)),
		file("block", strings.Repeat("c", BlockSize)),
		file("large", strings.Repeat("0123456789abcdef", 10_000)).owned(1<<32-2, 1<<32-2),
		symlink("link", "../no/such/file"),
		symlink("long-link", long),
		dir("sticky", 0o1777).at(time.Unix(0, 0)),
		member{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		member{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 4095, Devminor: 1<<20 - 1}},
		member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}},
		file("caps", "x").xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		file("attrs", "y").xattr("user.a", "1").xattr("user.b", strings.Repeat("v", 9000)).
			xattr("trusted.overlay.opaque", "y").xattr("system.posix_acl_access", acl).xattr("user.nul", "\x00").xattr("user.empty", ""),
		link("hard", "large"),
	))
	f := img.walk(t)
	require.Equal(t, 16, len(f))
	require.EqualValues(t, 15, img.info.Inodes)

	check := func(path string, mode uint32, uid, gid uint32, at time.Time) {
		t.Helper()
		require.Equal(t, mode, f[path].Mode, path)
		require.Equal(t, [2]uint32{uid, gid}, [2]uint32{f[path].UID, f[path].GID}, path)
		require.Equal(t, at.UnixNano(), f[path].Sec*1e9+int64(f[path].Nsec), path)
	}
	check(".", 0o40751, 7, 8, stamp)
	check("empty", 0o100644, 0, 0, stamp)
	check("small", 0o104755, 1000, 100_000, old)
	check("large", 0o100644, 1<<32-2, 1<<32-2, stamp)
	check("link", 0o120777, 0, 0, stamp)
	check("sticky", 0o41777, 0, 0, time.Unix(0, 0))
	check("null", 0o20666, 0, 0, stamp)
	check("disk", 0o60660, 0, 0, stamp)
	check("fifo", 0o10600, 0, 0, stamp)
	require.Equal(t, [2]uint32{1, 3}, [2]uint32{f["null"].Major, f["null"].Minor})
	require.Equal(t, [2]uint32{4095, 1<<20 - 1}, [2]uint32{f["disk"].Major, f["disk"].Minor})
	require.Equal(t, "../no/such/file", f["link"].Target)
	require.Equal(t, long, f["long-link"].Target)
	require.Equal(t, "hello", img.text(t, "small"))
	require.Equal(t, strings.Repeat("i", inlineMax), img.text(t, "inline-limit"))
	require.Equal(t, strings.Repeat("b", inlineMax+1), img.text(t, "first-block"))
	require.Equal(t, strings.Repeat("c", BlockSize), img.text(t, "block"))
	require.Equal(t, strings.Repeat("0123456789abcdef", 10_000), img.text(t, "large"))
	require.EqualValues(t, 2, f["large"].Nlink)
	require.Equal(t, "hard", f["large"].Same) // "hard" sorts first
	require.EqualValues(t, 3, f["."].Nlink)
	require.Len(t, f["caps"].Xattrs, 1)
	require.Len(t, f["caps"].Xattrs["security.capability"], 20)
	require.Equal(t, map[string]string{
		"user.a": "1", "user.b": strings.Repeat("v", 9000), "trusted.overlay.opaque": "y",
		"system.posix_acl_access": acl, "user.nul": "\x00", "user.empty": "",
	}, f["attrs"].Xattrs)
	require.Equal(t, "y", img.text(t, "attrs"))
}

// Only what is used is announced, so that the oldest possible kernel mounts.
func TestFeatureFlagsAreThoseUsed(t *testing.T) {
	t.Parallel()
	img := build(t, layerTar(t, file("a", "in the index")))
	require.Zero(t, img.open(t).Incompat)
	require.Empty(t, img.info.Parts)

	img = build(t, layerTar(t, file("a", strings.Repeat("x", 5000))))
	require.Zero(t, img.open(t).Incompat)
	require.Len(t, img.info.Parts, 1)
	require.Equal(t, img.layers[0].info.DiffID, img.info.Parts[0].DiffID)
}

func TestLayersOverrideEachOther(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 50)
	tests := map[string]struct {
		layers [][]member
		want   []string
		also   func(t *testing.T, img image)
	}{
		"whiteout of a file": {
			layers: [][]member{{file("a", "1"), file("b", "1")}, {file(".wh.a", "")}},
			want:   []string{"b"},
		},
		"whiteout of a folder": {
			layers: [][]member{{file("d/e/f", "1"), file("d2", "1")}, {file(".wh.d", "")}},
			want:   []string{"d2"},
		},
		"whiteout of what is not there": {
			layers: [][]member{{file("a", "1")}, {file("x/y/.wh.z", ""), file(".wh.q", ""), file("a/.wh.b", "")}},
			want:   []string{"a"},
		},
		"whiteout and new file of one name, in either order": {
			layers: [][]member{{file("a", "1"), file("b", "1")},
				{file(".wh.a", ""), file("a", "2"), file("b", "2"), file(".wh.b", "")}},
			want: []string{"a", "b"},
			also: func(t *testing.T, img image) {
				require.Equal(t, "22", img.text(t, "a")+img.text(t, "b"))
			},
		},
		"whiteout of a folder that the same layer fills": {
			layers: [][]member{{file("d/old", "1"), file("d/e/old", "1")}, {file("d/e/new", "2"), file(".wh.d", "")}},
			want:   []string{"d", "d/e", "d/e/new"},
		},
		"whiteout of one of two hard links": {
			layers: [][]member{{file("a", "1"), link("b", "a")}, {file(".wh.a", "")}},
			want:   []string{"b"},
			also:   func(t *testing.T, img image) { require.EqualValues(t, 1, img.walk(t)["b"].Nlink) },
		},
		"whiteout through a link of a lower layer": {
			layers: [][]member{{file("usr/lib/x", "1"), file("usr/lib/y", ""), symlink("lib", "usr/lib")}, {file("lib/.wh.x", "")}},
			want:   []string{"lib", "usr", "usr/lib", "usr/lib/y"},
		},
		"opaque folder hides only lower layers, in either order": {
			layers: [][]member{
				{file("d/old", "1"), file("d/sub/old", "1"), file("e/old", "1")},
				{dir("d", 0o700), file("d/.wh..wh..opq", ""), file("d/new", "2"), file("e/sub/new", "2"), file("e/.wh..wh..opq", "")}},
			want: []string{"d", "d/new", "e", "e/sub", "e/sub/new"},
		},
		"opaque root": {
			layers: [][]member{{file("a", "1"), file("d/b", "1")}, {file(".wh..wh..opq", ""), file("c", "2")}},
			want:   []string{"c"},
		},
		"opaque folder in place of a link": {
			layers: [][]member{{file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {dir("lib", 0o755), file("lib/.wh..wh..opq", "")}},
			want:   []string{"lib", "usr", "usr/lib", "usr/lib/x"},
		},
		"aufs leftovers": {
			layers: [][]member{{file(".wh..wh.plnk/1.2", "x"), dir(".wh..wh.orph", 0o700), file(".wh..wh.aufs", ""), file("a", "1")}},
			want:   []string{"a"},
		},
		"folder metadata changes, children stay": {
			layers: [][]member{{dir("d", 0o755).xattr("user.a", "1"), file("d/a", "1")}, {dir("d", 0o700).owned(5, 6)}},
			want:   []string{"d", "d/a"},
			also: func(t *testing.T, img image) {
				d := img.walk(t)["d"]
				require.EqualValues(t, 0o40700, d.Mode)
				require.EqualValues(t, 5, d.UID)
				require.Nil(t, d.Xattrs)
			},
		},
		"file becomes folder, folder becomes file, file becomes link": {
			layers: [][]member{{file("a", "1"), file("b/x/y", "1"), file("c", "1")},
				{dir("a", 0o755), file("a/new", "2"), file("b", "2"), symlink("c", "b")}},
			want: []string{"a", "a/new", "b", "c"},
			also: func(t *testing.T, img image) {
				require.Equal(t, "2", img.text(t, "b"))
				require.EqualValues(t, 3, img.walk(t)["."].Nlink)
			},
		},
		"later member of one layer wins": {
			layers: [][]member{{file("a", "1"), file("a", "2"), file("d/x", "1"), file("d", "2"), dir("e", 0o700), dir("e", 0o711)}},
			want:   []string{"a", "d", "e"},
			also: func(t *testing.T, img image) {
				require.Equal(t, "22", img.text(t, "a")+img.text(t, "d"))
				require.EqualValues(t, 0o40711, img.walk(t)["e"].Mode)
			},
		},
		"hard link across layers, and its target replaced later": {
			layers: [][]member{{file("a", "1").owned(3, 4)}, {link("b", "a")}, {file("a", "3")}},
			want:   []string{"a", "b"},
			also: func(t *testing.T, img image) {
				require.Equal(t, "31", img.text(t, "a")+img.text(t, "b"))
				require.EqualValues(t, 3, img.walk(t)["b"].UID)
				require.EqualValues(t, 1, img.walk(t)["b"].Nlink)
			},
		},
		"hard link to a link, to itself, and over its own folder": {
			layers: [][]member{{symlink("s", "x"), link("t", "s"), file("a", "1"), link("a", "a"), file("d/f", "2"), link("d", "d/f")}},
			want:   []string{"a", "d", "s", "t"},
			also: func(t *testing.T, img image) {
				require.EqualValues(t, 2, img.walk(t)["t"].Nlink)
				require.EqualValues(t, 1, img.walk(t)["a"].Nlink)
				require.Equal(t, "2", img.text(t, "d"))
				require.EqualValues(t, 1, img.walk(t)["d"].Nlink)
			},
		},
		"missing parents": {
			layers: [][]member{{file("x/y/z", "1").owned(9, 9)}},
			want:   []string{"x", "x/y", "x/y/z"},
			also: func(t *testing.T, img image) {
				x := img.walk(t)["x"]
				require.EqualValues(t, 0o40755, x.Mode)
				require.Zero(t, x.UID)
				require.Equal(t, stamp.Unix(), x.Sec)
			},
		},
		"parents through links stay inside the root": {
			layers: [][]member{
				{symlink("abs", "/real/dir"), symlink("up", "../../../real"), symlink("a", "b"), symlink("b", "c/../real"), dir("c", 0o755)},
				{file("abs/1", "x"), file("up/2", "x"), file("a/3", "x"), file("up/dir/../4", "x")}},
			want: []string{"a", "abs", "b", "c", "real", "real/2", "real/3", "real/dir", "real/dir/1", "up", "real/4"},
		},
		"a link on the way is replaced in the same layer": {
			layers: [][]member{{symlink("s", "."), file("s/s", "file in place of the link"), file("a", "1")}},
			want:   []string{"a", "s"},
		},
		"names that differ in case, or are odd": {
			layers: [][]member{{file("README", "1"), file("readme", "2"), file("-", ""), file("!", ""), file(".hidden", ""),
				file("\xff\xfe", ""), file("a\nb", ""), file("back\\slash", ""), file("..data", ""), file(strings.Repeat("n", 255), "")}},
			want: []string{"!", "-", "..data", ".hidden", "README", "a\nb", "back\\slash", strings.Repeat("n", 255), "readme", "\xff\xfe"},
		},
		"names in every unclean form": {
			layers: [][]member{{file("./a", ""), file("/b", ""), file("c//d/./e", ""), file("x/../f", ""), file("../../g", ""), dir("./h/", 0o755)}},
			want:   []string{"a", "b", "c", "c/d", "c/d/e", "f", "g", "h"},
		},
		"deep": {
			layers: [][]member{{file(deep+"f", "1")}},
			want: func() (p []string) {
				for i := 1; i <= 50; i++ {
					p = append(p, strings.TrimSuffix(deep[:2*i], "/"))
				}
				return append(p, deep+"f")
			}(),
		},
		"the same layer twice": {
			layers: [][]member{{file("a", strings.Repeat("1", 9999))}, {file("a", strings.Repeat("1", 9999))}},
			want:   []string{"a"},
			also:   func(t *testing.T, img image) { require.Len(t, img.info.Parts, 1) },
		},
		"empty layers": {layers: [][]member{{}, {}}, want: []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var archives [][]byte
			for _, l := range tt.layers {
				archives = append(archives, layerTar(t, l...))
			}
			img := build(t, archives...)
			require.ElementsMatch(t, tt.want, img.paths(t))
			if tt.also != nil {
				tt.also(t, img)
			}
		})
	}
}

func TestContradictionsAreRefusedAndNamed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		layers [][]member
		want   []string // parts of the message
	}{
		"hard link to nothing":       {[][]member{{link("name", "gone")}}, []string{`"name"`, `"gone"`}},
		"hard link to a later file":  {[][]member{{link("name", "later"), file("later", "")}}, []string{`"later"`}},
		"hard link to a folder":      {[][]member{{dir("d", 0o755), link("name", "d")}}, []string{`"name"`, "directory"}},
		"hard link to the root":      {[][]member{{link("name", "/")}}, []string{"root"}},
		"hard link to a hidden file": {[][]member{{file("a", "")}, {file(".wh.a", ""), link("b", "a")}}, []string{`"a"`}},
		"file below a file":          {[][]member{{file("a", "")}, {file("a/b", "")}}, []string{`"a/b"`, "not a directory"}},
		"file below a link to itself": {[][]member{{symlink("a", "a"), file("a/b", "")}},
			[]string{"symbolic links"}},
		"root as a file":        {[][]member{{file(".", "")}}, []string{"root"}},
		"root as a link":        {[][]member{{symlink("/", "x")}}, []string{"root"}},
		"whiteout of nothing":   {[][]member{{file("d/.wh.", "")}}, []string{"whiteout"}},
		"whiteout of dot":       {[][]member{{file(".wh..", "")}}, []string{"whiteout"}},
		"whiteout of dot dot":   {[][]member{{file("d/.wh...", "")}}, []string{"whiteout"}},
		"file below a whiteout": {[][]member{{file(".wh.a/b", "")}}, []string{"whiteout"}},
		"no layers":             {nil, []string{"without layers"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var layers []layer
			var err error
			for _, l := range tt.layers {
				var c layer
				if c, err = tryConvert(t, layerTar(t, l...), Options{}); err != nil {
					break
				}
				layers = append(layers, c)
			}
			if err == nil {
				_, err = tryMerge(t, layers...)
			}
			require.ErrorIs(t, err, ErrFormat)
			for _, w := range tt.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
}
