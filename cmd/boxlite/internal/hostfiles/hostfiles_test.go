package hostfiles

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pack archives a file under its own name.
func pack(t *testing.T, path string) []byte {
	var b bytes.Buffer
	require.NoError(t, Pack(&b, path, filepath.Base(path), false, func(s string) { t.Error(s) }))
	return b.Bytes()
}

func describe(t *testing.T, dir string) (lines []string) {
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		s := fmt.Sprintf("%q %v time %d", strings.TrimPrefix(path, dir), info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			s += " to " + target
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			s += fmt.Sprintf(" links %d: %d bytes %.10q", st.Nlink, len(b), b)
		}
		if os.Getuid() == 0 {
			s += fmt.Sprintf(" owner %d:%d", st.Uid, st.Gid)
		}
		lines = append(lines, s)
		return nil
	}))
	return lines
}

func makeTree(t *testing.T, dir string) {
	path := func(name string) string { return filepath.Join(dir, name) }
	check := func(err error) { t.Helper(); require.NoError(t, err) }
	check(os.MkdirAll(path("a/b/c"), 0o755))
	check(os.WriteFile(path("a/file"), []byte("content"), 0o644))
	check(os.WriteFile(path("a/b/big"), bytes.Repeat([]byte("0123456789abcdef"), 20000), 0o600))
	check(os.WriteFile(path("a/readonly"), []byte("r"), 0o444))
	check(os.Link(path("a/file"), path("a/b/hard")))
	check(os.Symlink("../nowhere", path("a/dangling")))
	check(os.Symlink("/etc", path("etc")))
	check(os.Chmod(path("a/file"), 0o755|os.ModeSetuid))
	check(os.Chmod(path("a/b/c"), 0o755|os.ModeSticky))
	if os.Getuid() == 0 {
		check(os.Lchown(path("a/dangling"), 5, 6))
		check(os.Chown(path("a/file"), 1000, 1000))
		check(os.Chmod(path("a/file"), 0o755|os.ModeSetuid|os.ModeSetgid))
	}
	check(os.Chmod(path("a/b"), 0o550))
	t.Cleanup(func() { os.Chmod(path("a/b"), 0o755) })
	for i, name := range []string{"a/file", "a/b/big", "a/b/c", "a/b", "a", "."} {
		check(os.Chtimes(path(name), time.Time{}, time.Unix(1600000000+int64(i), 5000)))
	}
}

func unpack(t *testing.T, archive []byte, u Unpacking, dst string, isDir bool) error {
	if u.Warn == nil {
		u.Warn = func(s string) { t.Log(s) }
	}
	if err := u.Aim(dst, isDir); err != nil {
		return err
	}
	defer u.Root.Close()
	return u.Unpack(bytes.NewReader(archive))
}

func TestTreeBothWays(t *testing.T) {
	top := t.TempDir()
	from := top + "/from"
	require.NoError(t, os.Mkdir(from, 0o755))
	makeTree(t, from)
	archive := pack(t, from)
	to := top + "/to"
	require.NoError(t, os.Mkdir(to, 0o755))
	for range 2 { // the second time everything is there
		root, err := os.OpenRoot(to)
		require.NoError(t, err)
		u := Unpacking{Root: root, Name: "from", Archive: true, Warn: func(s string) { t.Log(s) }}
		require.NoError(t, u.Unpack(bytes.NewReader(archive)))
		root.Close()
		if os.Getuid() == 0 {
			require.Equal(t, describe(t, from), describe(t, to))
		}
		t.Cleanup(func() { os.Chmod(to+"/a/b", 0o755) })
	}
	// Without the bits and owners that only Archive keeps.
	require.NoError(t, os.Mkdir(top+"/in", 0o755))
	require.NoError(t, unpack(t, archive, Unpacking{Name: "from"}, top+"/in", true))
	t.Cleanup(func() { os.Chmod(top+"/in/from/a/b", 0o755) })
	info, err := os.Stat(top + "/in/from/a/file")
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o755), info.Mode())
	var st unix.Stat_t
	require.NoError(t, unix.Stat(top+"/in/from/a/file", &st))
	require.EqualValues(t, os.Getuid(), st.Uid)
	info, err = os.Stat(top + "/in/from/a/b")
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o550, info.Mode())
}

// TestAim: where a copy goes is what Docker's manual says.
func TestAim(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/dir/src", 0o755))
	require.NoError(t, os.WriteFile(top+"/file", nil, 0o644))
	require.NoError(t, os.Symlink("dir", top+"/link"))
	for _, c := range []struct {
		dst         string
		isDir       bool
		name        string
		root, as    string
		errContains string
	}{
		{"new", false, "src", "", "new", ""},
		{"new/", false, "src", "", "", "does not exist"},
		{"no/new", false, "src", "", "", "no such file"},
		{"file", false, "src", "", "file", ""},
		{"file/", false, "src", "", "", "not a directory"},
		{"dir", false, "file", "dir", "file", ""},
		{"newdir", true, "src", "newdir", "", ""},
		{"newdir2/", true, "src", "newdir2", "", ""},
		{"file", true, "src", "", "", "cannot be copied onto"},
		{"dir", true, "src", "dir/src", "", ""},
		{"dir", true, "other", "dir/other", "", ""},
		{"dir", true, ".", "dir", "", ""},
		{"newdir3", true, ".", "newdir3", "", ""},
		{"link", false, "src", "", "", "symbolic link"},
		{"link", true, "src", "", "", "symbolic link"},
		{"link/", true, "src", "dir/src", "", ""},
	} {
		u := Unpacking{Name: c.name}
		err := u.Aim(top+"/"+c.dst, c.isDir)
		if c.errContains != "" {
			require.ErrorContains(t, err, c.errContains, "%+v", c)
			continue
		}
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.as, u.As, "%+v", c)
		got, err := u.Root.Stat(".")
		require.NoError(t, err)
		want, err := os.Stat(filepath.Join(top, c.root))
		require.NoError(t, err)
		require.True(t, os.SameFile(got, want), "%+v", c)
		u.Root.Close()
	}
}

func archive(t *testing.T, list ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := io.WriteString(w, strings.Repeat("x", int(h.Size)))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// TestHostileArchives: a guest that sends anything cannot have anything written
// but below the directory that it was asked for.
func TestHostileArchives(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 4} }
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for name, c := range map[string]struct {
		archive     []byte
		isDir       bool
		errContains string
	}{
		"through a link":             {archive(t, dir("src/"), link("src/l", "OUT"), reg("src/l/secret")), true, "no directory here"},
		"through a relative link":    {archive(t, dir("src/"), link("src/l", ".."), reg("src/l/evil")), true, "no directory here"},
		"through an inner link":      {archive(t, dir("src/"), dir("src/d/"), link("src/l", "d"), reg("src/l/f")), true, "no directory here"},
		"directory on a link":        {archive(t, dir("src/"), link("src/l", "OUT"), dir("src/l/")), true, "no directory here"},
		"link on a directory":        {archive(t, dir("src/"), dir("src/d/"), link("src/d", "OUT"), reg("src/d/secret")), true, "is a directory here"},
		"dots":                       {archive(t, dir("src/"), reg("src/../evil")), true, "leads elsewhere"},
		"dots in front":              {archive(t, dir("src/"), reg("../evil")), true, "where \"src\" was asked for"},
		"absolute":                   {archive(t, dir("src/"), reg("/etc/evil")), true, "where \"src\" was asked for"},
		"absolute below":             {archive(t, dir("src/"), reg("src//etc/evil")), true, "leads elsewhere"},
		"another name":               {archive(t, dir("src/"), reg("evil")), true, "where \"src\" was asked for"},
		"hard link out":              {archive(t, dir("src/"), hard("src/h", "../outside/secret")), true, "was asked for"},
		"hard link dots":             {archive(t, dir("src/"), hard("src/h", "src/../../outside/secret")), true, "leads elsewhere"},
		"hard link through a link":   {archive(t, dir("src/"), link("src/l", "OUT"), hard("src/h", "src/l/secret")), true, "no directory"},
		"hard link to a directory":   {archive(t, dir("src/"), dir("src/d/"), hard("src/h", "src/d")), true, "hard link to the directory"},
		"root is a link":             {archive(t, link("src", "OUT")), true, "something else"},
		"file is a directory":        {archive(t, dir("src/"), reg("src/x")), false, "something else"},
		"file is a tree":             {archive(t, reg("src/x")), false, "where a file was asked for"},
		"two files":                  {archive(t, reg("src"), reg("src")), false, "more than the file"},
		"file is a hard link":        {archive(t, hard("src", "src")), false, "a link"},
		"long name":                  {archive(t, dir("src/"), reg("src/"+strings.Repeat("d/", 3000)+"f")), true, "a name of"},
		"huge extended header":       {append(extendedHeader(2<<20), archive(t)...), true, "damaged archive"},
		"sparse of GNU":              {sparseGNU(), true, "sparse"},
		"empty":                      {archive(t), true, "empty archive"},
		"nothing":                    {nil, true, "empty archive"},
		"cut short":                  {archive(t, dir("src/"), reg("src/f"))[:1026], true, "unexpected EOF"},
		"garbage behind the archive": {append(archive(t, dir("src/")), make([]byte, 2<<20)...), true, "behind the archive's end"},
		"garbage":                    {bytes.Repeat([]byte("garbage"), 1000), true, "damaged archive"},
		"unknown record": {archive(t, dir("src/"), tar.Header{Name: "src/f", Typeflag: tar.TypeReg, Size: 4, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"COMMENT.x": "y"}}), true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			out := top + "/outside"
			require.NoError(t, os.Mkdir(out, 0o755))
			require.NoError(t, os.WriteFile(out+"/secret", []byte("secret"), 0o600))
			require.NoError(t, os.Mkdir(top+"/dst", 0o755))
			b := c.archive
			if bytes.Contains(c.archive, []byte("OUT")) { // a target has to be known when the archive is made
				b = retarget(t, c.archive, out)
			}
			err := unpack(t, b, Unpacking{Name: "src"}, top+"/dst", c.isDir)
			if c.errContains != "" {
				require.ErrorContains(t, err, c.errContains)
			} else {
				require.NoError(t, err)
			}
			var st unix.Stat_t
			require.NoError(t, unix.Stat(out+"/secret", &st))
			require.EqualValues(t, 1, st.Nlink)
			secret, err := os.ReadFile(out + "/secret")
			require.NoError(t, err)
			require.Equal(t, "secret", string(secret))
			for _, d := range []struct {
				dir  string
				want int
			}{{top, 2}, {out, 1}} {
				left, err := os.ReadDir(d.dir)
				require.NoError(t, err)
				require.Len(t, left, d.want, "%v", left)
			}
			left, err := os.ReadDir(top + "/dst")
			require.NoError(t, err)
			for _, e := range left {
				require.Equal(t, "src", e.Name())
			}
		})
	}
}

// retarget writes an archive again with its links to OUT leading to dir.
func retarget(t *testing.T, b []byte, dir string) []byte {
	var list []tar.Header
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return archive(t, list...)
		}
		require.NoError(t, err)
		if h.Linkname == "OUT" {
			h.Linkname = dir
		}
		h.Format = tar.FormatUnknown
		list = append(list, *h)
	}
}

// extendedHeader begins an archive with an extended header of a size.
func extendedHeader(size int) []byte {
	b := make([]byte, 512+size)
	copy(b, "pax")
	copy(b[100:], "0000644\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x00", size)+"00000000000\x00        x")
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, v := range b[:512] {
		sum += int(v)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// sparseGNU is an archive of one file of 1 TiB without content, in GNU's format.
func sparseGNU() []byte {
	b := make([]byte, 512)
	copy(b, "src")
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(b[257:], "ustar  \x00")
	copy(b[483:], fmt.Sprintf("%011o\x00", 1<<32))
	sum := 0
	for _, v := range b {
		sum += int(v)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(b, make([]byte, 1024)...)
}

// TestHostileSparse: the other way to say sparse is refused as well.
func TestHostileSparse(t *testing.T) {
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=src/f\n32 GNU.sparse.realsize=99999999\n"
	b := extendedHeader(len(records))
	copy(b[512:], records)
	b = append(b, make([]byte, -len(b)&511)...)
	f := archive(t, tar.Header{Name: "src/f", Typeflag: tar.TypeReg, Size: 512})
	copy(f[512:], "0\n")
	err := unpack(t, append(b, f...), Unpacking{Name: "src"}, t.TempDir(), true)
	require.ErrorContains(t, err, "sparse")
}

// TestHostileLinksStay: links lead where they lead, and replace nothing through
// themselves.
func TestHostileLinksStay(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.WriteFile(top+"/secret", []byte("secret"), 0o600))
	dst := top + "/dst"
	list := []tar.Header{
		{Name: "src/", Typeflag: tar.TypeDir}, {Name: "src/l", Typeflag: tar.TypeSymlink, Linkname: top + "/secret"},
		{Name: "src/l", Typeflag: tar.TypeReg, Size: 3}, {Name: "src/h", Typeflag: tar.TypeSymlink, Linkname: "../secret"},
		{Name: "src/h2", Typeflag: tar.TypeLink, Linkname: "src/h"}, {Name: "src/h2", Typeflag: tar.TypeReg, Size: 2},
		{Name: "src/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "src/", Typeflag: tar.TypeDir, Mode: 0o710},
	}
	require.NoError(t, unpack(t, archive(t, list...), Unpacking{Name: "src"}, dst, true))
	for name, want := range map[string]string{"secret": "secret", "dst/l": "xxx", "dst/h2": "xx", "dst/h": "secret"} {
		b, err := os.ReadFile(filepath.Join(top, name))
		require.NoError(t, err)
		require.Equal(t, want, string(b), name)
	}
	info, err := os.Stat(dst)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o710), info.Mode().Perm())
}

// TestHostileModes: set-id bits and devices are for those who ask for them.
func TestHostileModes(t *testing.T) {
	dst := t.TempDir()
	var warned []string
	list := []tar.Header{
		{Name: "src/", Typeflag: tar.TypeDir, Mode: 0o7777}, {Name: "src/suid", Typeflag: tar.TypeReg, Mode: 0o7777},
		{Name: "src/null\x1b[2J", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, {Name: "src/disk", Typeflag: tar.TypeBlock, Devmajor: 254},
	}
	require.NoError(t, unpack(t, archive(t, list...), Unpacking{Name: "src", Warn: func(s string) { warned = append(warned, s) }}, dst, true))
	for name, want := range map[string]fs.FileMode{"src": fs.ModeDir | 0o777, "src/suid": 0o777} {
		info, err := os.Lstat(filepath.Join(dst, name))
		require.NoError(t, err)
		require.Equal(t, want, info.Mode(), name)
	}
	left, err := os.ReadDir(dst + "/src")
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Len(t, warned, 2)
	for _, s := range warned {
		require.Contains(t, s, "left out")
		require.NotContains(t, s, "\x1b")
	}
}

// TestHostileText: names that would steer a terminal do not reach it by an error.
func TestHostileText(t *testing.T) {
	name := strings.Repeat("n", 256) + "\x1b[2J" // longer than a name can be here
	list := []tar.Header{{Name: "src/", Typeflag: tar.TypeDir}, {Name: "src/" + name, Typeflag: tar.TypeSymlink, Linkname: "\x1b[31m"}}
	err := unpack(t, archive(t, list...), Unpacking{Name: "src"}, t.TempDir(), true)
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	require.NotContains(t, err.Error(), "\x1b")
}

// TestVerdict: an error that comes behind the archive is told.
func TestVerdict(t *testing.T) {
	verdict := errors.New("not everything could be read")
	u := Unpacking{Name: "src", Warn: func(string) {}}
	require.NoError(t, u.Aim(t.TempDir(), false))
	defer u.Root.Close()
	b := archive(t, tar.Header{Name: "src", Typeflag: tar.TypeReg, Size: 4})
	require.ErrorIs(t, u.Unpack(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(verdict))), verdict)
}

func TestPackSpecial(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/s")
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o600))
	var warned []string
	var b bytes.Buffer
	require.NoError(t, Pack(&b, dir, "d", false, func(s string) { warned = append(warned, s) }))
	require.Len(t, warned, 1)
	require.Contains(t, warned[0], "socket")
	r := tar.NewReader(&b)
	for _, want := range []string{"d/", "d/fifo"} {
		h, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, want, h.Name)
	}
	_, err = r.Next()
	require.Equal(t, io.EOF, err)
	require.ErrorIs(t, Pack(&b, dir+"/missing", "x", false, nil), fs.ErrNotExist)
}

// TestPackFollowsNoLinks has links to directories everywhere in a tree, one of
// which takes a directory's place while it is packed.
func TestPackFollowsNoLinks(t *testing.T) {
	outside, tree := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "dir", "deep"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "dir", "file"), []byte("file"), 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(tree, "out")))
	require.NoError(t, os.Symlink("../..", filepath.Join(tree, "dir", "deep", "up")))
	require.NoError(t, os.Symlink("dir", filepath.Join(tree, "in")))
	require.NoError(t, os.Symlink(tree, filepath.Join(outside, "top")))
	entries := func(path string, follow bool) (list []string, err error) {
		var b bytes.Buffer
		err = Pack(&b, path, "x", follow, func(s string) { t.Error(s) })
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			list = append(list, h.Name+">"+h.Linkname)
		}
		return list, err
	}
	want := []string{"x/>", "x/dir/>", "x/dir/deep/>", "x/dir/deep/up>../..", "x/dir/file>", "x/in>dir", "x/out>" + outside}
	got, err := entries(tree, false)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
	got, err = entries(filepath.Join(outside, "top"), true) // the named top is followed
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
	got, err = entries(filepath.Join(outside, "top"), false)
	require.NoError(t, err)
	require.Equal(t, []string{"x>" + tree}, got)

	// Between the look and the opening: a packer that has seen a directory.
	for _, to := range []string{outside, "deep2"} {
		dir := filepath.Join(t.TempDir(), "dir")
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "deep"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "deep2"), 0o755))
		seen, err := os.Lstat(filepath.Join(dir, "deep"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, "deep")))
		require.NoError(t, os.Symlink(to, filepath.Join(dir, "deep")))
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		defer root.Close()
		var b bytes.Buffer
		p := &packer{w: tar.NewWriter(&b), links: map[inode]string{}}
		for _, from := range []source{{root, filepath.Join(dir, "deep")}, {nil, filepath.Join(dir, "deep")}} {
			require.ErrorContains(t, p.entry(from, "x", seen), filepath.Join(dir, "deep"))
		}
		require.Zero(t, b.Len(), "nothing of what the link leads to is packed")
	}
}

// TestReachable has destinations that no copy could go to.
func TestReachable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	for _, good := range []string{dir, file, filepath.Join(dir, "new"), dir + "/new/", dir + "/link/", ".", "new", dir + "/link/new"} {
		require.NoError(t, Reachable(good), good)
	}
	for bad, want := range map[string]string{
		dir + "/none/new": "no such file", dir + "/none/new/": "no such file", dir + "/link": "is a symbolic link", file + "/": "is no directory", file + "/new": "not a directory",
	} {
		require.ErrorContains(t, Reachable(bad), want, bad)
	}
}
