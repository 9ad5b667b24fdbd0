package tarfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// makeTree makes files of every kind that the caller may make.
func makeTree(t *testing.T, dir string) {
	root := os.Getuid() == 0
	path := func(name string) string { return filepath.Join(dir, name) }
	check := func(err error) { t.Helper(); require.NoError(t, err) }
	check(os.MkdirAll(path("a/b/c"), 0o755))
	check(os.Mkdir(path("sticky"), 0o700))
	check(os.WriteFile(path("a/file"), []byte("content"), 0o644))
	check(os.WriteFile(path("a/big"), bytes.Repeat([]byte("0123456789abcdef"), 20000), 0o600))
	check(os.WriteFile(path("a/b/empty"), nil, 0o400))
	check(os.Link(path("a/file"), path("a/b/hard")))
	check(os.Link(path("a/file"), path("sticky/hard too")))
	check(os.Symlink("../nowhere", path("a/dangling")))
	check(os.Symlink("/etc", path("a/etc")))
	check(unix.Mkfifo(path("a/fifo"), 0o620))
	deep := path("a")
	for range 30 {
		deep = filepath.Join(deep, "directory")
	}
	check(os.MkdirAll(deep, 0o755))
	check(os.WriteFile(filepath.Join(deep, strings.Repeat("n", 255)), []byte("x"), 0o644))
	check(os.WriteFile(path("a/new\nline \xff"), []byte("x"), 0o644))
	check(unix.Setxattr(path("a/file"), "user.kept", []byte("with\x00zero"), 0))
	check(unix.Setxattr(path("a/b"), "user.dir", []byte("d"), 0))
	check(os.Chmod(path("a/file"), 0o754|os.ModeSetuid))
	if root {
		check(os.Chown(path("a/file"), 1000, 70000))
		check(os.Chown(path("a/b"), 3, 1<<31))
		check(os.Lchown(path("a/dangling"), 5, 6))
		check(os.Chmod(path("a/file"), 0o754|os.ModeSetuid|os.ModeSetgid))
		check(unix.Mknod(path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		check(unix.Mknod(path("disk"), unix.S_IFBLK|0o640, int(unix.Mkdev(7, 300))))
		check(unix.Setxattr(path("a/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	check(os.Chmod(path("sticky"), 0o755|os.ModeSticky))
	if root { // for others a second archive could not be unpacked over the first
		check(os.Chmod(path("a/b"), 0o550))
	}
	for i, name := range []string{"a/file", "a/big", "a/b/empty", "a/dangling", "a/fifo", "a/b/c", "a/b", "a", "sticky", ""} {
		ts := []unix.Timespec{{Sec: 1}, {Sec: 1600000000 + int64(i), Nsec: 123456789 + int64(i)}}
		check(unix.UtimesNanoAt(unix.AT_FDCWD, path(name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// describe lists a tree, a line for each entry with everything an archive keeps.
func describe(t *testing.T, dir string) (lines []string) {
	first := map[uint64]string{}
	require.NoError(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		require.NoError(t, err)
		name := strings.TrimPrefix(path, dir)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		s := fmt.Sprintf("%q mode %o owner %d:%d dev %d", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			s += fmt.Sprintf(" links %d", st.Nlink)
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				s += " first " + first[st.Ino]
			}
		}
		if name != "" { // the directory that is unpacked into keeps its own
			s += fmt.Sprintf(" time %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			s += " to " + target
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			s += fmt.Sprintf(" %d bytes %.10q", len(b), b)
			fallthrough
		case unix.S_IFDIR:
			f, err := os.Open(path)
			require.NoError(t, err)
			list, err := getXattrs(int(f.Fd()))
			require.NoError(t, err)
			f.Close()
			s += fmt.Sprintf(" %q", list)
		}
		lines = append(lines, s)
		return nil
	}))
	return lines
}

func TestTreeBothWays(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from)
	var b bytes.Buffer
	require.NoError(t, Pack(&b, from+"/.", false))
	archive := b.Bytes()
	for range 2 { // into an empty directory, then over what is there
		require.NoError(t, Unpack(bytes.NewReader(archive), to, nil))
		require.NoError(t, os.Chmod(to, 0o755))
		require.NoError(t, os.Chmod(from, 0o755))
		require.Equal(t, describe(t, from), describe(t, to))
	}
	if os.Getuid() == 0 {
		before := describe(t, to)
		require.NoError(t, Unpack(bytes.NewReader(archive), to, &Owner{7, 8}))
		for i, line := range describe(t, to)[1:] {
			if strings.Contains(line, " mode 4") {
				require.Equal(t, withoutTime(before[i+1]), withoutTime(line), "a directory that was there is somebody's")
			} else {
				require.Contains(t, line, " owner 7:8 ")
			}
		}
		fresh := t.TempDir()
		require.NoError(t, Unpack(bytes.NewReader(archive), fresh, &Owner{7, 8}))
		for _, line := range describe(t, fresh)[1:] {
			require.Contains(t, line, " owner 7:8 ")
		}
	}
}

// withoutTime is a line of describe for who makes files in a directory, which
// changes its time.
func withoutTime(line string) string {
	before, rest, _ := strings.Cut(line, " time ")
	_, after, _ := strings.Cut(rest, " ")
	return before + after
}

// TestFailedFileStays: what an archive would replace stays when the archive does not
// come to its end, and nothing is left of the new file.
func TestFailedFileStays(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(from+"/file", bytes.Repeat([]byte("new"), 100_000), 0o644))
	require.NoError(t, os.WriteFile(to+"/file", []byte("precious"), 0o600))
	var b bytes.Buffer
	require.NoError(t, Pack(&b, from+"/file", false))
	require.Error(t, Unpack(bytes.NewReader(b.Bytes()[:200_000]), to, nil))
	p, err := os.ReadFile(to + "/file")
	require.NoError(t, err)
	require.Equal(t, "precious", string(p))
	list, err := os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.NoError(t, Unpack(&b, to, nil))
	p, err = os.ReadFile(to + "/file")
	require.NoError(t, err)
	require.Len(t, p, 300_000)
	list, err = os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// TestHolesStay: a sparse file is one on the other side, with the same content.
func TestHolesStay(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	const size = 5<<20 + 77
	write := func(name string, holes bool) {
		f, err := os.Create(from + "/" + name)
		require.NoError(t, err)
		defer f.Close()
		if holes {
			require.NoError(t, f.Truncate(size))
		} else {
			_, err = f.Write(make([]byte, size))
			require.NoError(t, err)
		}
		for _, off := range []int64{0, 4095, 1<<20 + 5, 3<<20 - 1} {
			_, err := f.WriteAt([]byte("here"), off)
			require.NoError(t, err)
		}
	}
	write("holes", true)
	write("whole", false)
	var b bytes.Buffer
	require.NoError(t, Pack(&b, from+"/.", false))
	require.NoError(t, Unpack(&b, to, nil))
	for _, name := range []string{"holes", "whole"} {
		want, err := os.ReadFile(from + "/" + name)
		require.NoError(t, err)
		got, err := os.ReadFile(to + "/" + name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(to+"/"+name, &st))
		require.Equal(t, name == "holes", st.Blocks*512 < 1<<20, "%s: %d blocks", name, st.Blocks)
	}
}

// TestNames: the entries are called as the last element of what was asked for.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/file", []byte("x"), 0o644))
	require.NoError(t, os.Mkdir(dir+"/sub", 0o755))
	require.NoError(t, os.WriteFile(dir+"/sub/inner", nil, 0o644))
	require.NoError(t, os.Symlink("sub", dir+"/link"))
	for _, c := range []struct {
		path   string
		follow bool
		want   string
	}{
		{"/file", false, "0 file"}, {"/sub", false, "5 sub/, 0 sub/inner"}, {"/sub/.", false, "5 ./, 0 ./inner"},
		{"/link", false, "2 link"}, {"/link", true, "5 link/, 0 link/inner"}, {"/link/", false, "5 link/, 0 link/inner"},
	} {
		var b bytes.Buffer
		require.NoError(t, Pack(&b, dir+c.path, c.follow))
		list, err := readAll(&b)
		require.NoError(t, err)
		var got []string
		for _, s := range list {
			got = append(got, string(s.Type)+" "+s.Name)
		}
		require.Equal(t, c.want, strings.Join(got, ", "), c.path)
	}
	for path, want := range map[string]error{
		"/missing": agentapi.ErrNoPath, "/file/": agentapi.ErrFileType, "/file/x": agentapi.ErrFileType,
	} {
		require.ErrorIs(t, Pack(&bytes.Buffer{}, dir+path, false), want)
		_, err := Stat(dir+path, false)
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, Unpack(&bytes.Buffer{}, dir+path, nil), want)
	}
	require.ErrorIs(t, Unpack(&bytes.Buffer{}, dir+"/file", nil), agentapi.ErrFileType)
	_, err := Stat(dir+"/\x00", false)
	require.ErrorIs(t, err, &agentapi.Error{Code: agentapi.CodeInvalid})
	info, err := Stat(dir+"/link", false)
	require.NoError(t, err)
	require.Equal(t, "sub", info.LinkTarget)
	require.Equal(t, uint32(unix.S_IFLNK|0o777), info.Mode)
	info, err = Stat(dir+"/link", true)
	require.NoError(t, err)
	require.Equal(t, uint32(unix.S_IFDIR|0o755), info.Mode)
}

// TestKernelFiles: files whose size the kernel does not tell are archived whole.
func TestKernelFiles(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Pack(&b, "/proc/version", false))
	list, err := readAll(&b)
	require.NoError(t, err)
	want, err := os.ReadFile("/proc/version")
	require.NoError(t, err)
	require.Equal(t, string(want), list[0].content)
	// A link of the kernel's, which leads to what this process has open, is none
	// that is followed.
	require.Error(t, Pack(&b, "/proc/self/fd/0/", true))
}

func archiveOf(t *testing.T, list ...sample) *bytes.Reader {
	for i := range list {
		list[i].Size = int64(len(list[i].content))
		list[i].UID, list[i].GID = uint32(os.Getuid()), uint32(os.Getgid())
		if list[i].Mode == 0 {
			list[i].Mode = 0o755
		}
	}
	return bytes.NewReader(write(t, list))
}

// TestHostileArchives: nothing is written outside of the directory, through a
// link or otherwise, and the error says what it is.
func TestHostileArchives(t *testing.T) {
	top := t.TempDir()
	out := top + "/outside"
	require.NoError(t, os.Mkdir(out, 0o755))
	require.NoError(t, os.WriteFile(out+"/secret", []byte("secret"), 0o600))
	reg := func(name string) sample { return sample{Header{Name: name, Type: TypeReg}, "evil"} }
	link := func(name, to string) sample { return sample{Header{Name: name, Type: TypeSymlink, Link: to}, ""} }
	hard := func(name, to string) sample { return sample{Header{Name: name, Type: TypeLink, Link: to}, ""} }
	sub := func(name string) sample { return sample{Header{Name: name, Type: TypeDir}, ""} }
	for name, c := range map[string]struct {
		list []sample
		want error
	}{
		"through a link":      {[]sample{link("l", out), reg("l/secret")}, agentapi.ErrFileType},
		"through a deep link": {[]sample{sub("d"), link("d/l", "../../outside"), reg("d/l/x/y")}, agentapi.ErrFileType},
		"through our link":    {[]sample{reg("mine/secret")}, agentapi.ErrFileType},
		"directory on a link": {[]sample{link("l", out), sub("l")}, agentapi.ErrFileType},
		"dots":                {[]sample{reg("../outside/secret")}, agentapi.ErrArchive},
		"dots within":         {[]sample{sub("a"), reg("a/../../outside/secret")}, agentapi.ErrArchive},
		"hard link dots":      {[]sample{hard("h", "../outside/secret")}, agentapi.ErrArchive},
		"hard link to itself": {[]sample{reg("f"), hard("h", "")}, agentapi.ErrArchive},
		"hard link by a link": {[]sample{link("l", out), hard("h", "l/secret")}, &agentapi.Error{Code: agentapi.CodeSystem}},
		"hard link missing":   {[]sample{hard("h", "nothing")}, agentapi.ErrNoPath},
		"file on a directory": {[]sample{reg("dir")}, agentapi.ErrFileType},
		"directory on a file": {[]sample{sub("file")}, agentapi.ErrFileType},
		"root as a file":      {[]sample{reg(".")}, agentapi.ErrArchive},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(top, strings.ReplaceAll(name, " ", "-"))
			require.NoError(t, os.MkdirAll(dir+"/dir", 0o755))
			require.NoError(t, os.WriteFile(dir+"/file", []byte("x"), 0o644))
			require.NoError(t, os.Symlink(out, dir+"/mine"))
			require.ErrorIs(t, Unpack(archiveOf(t, c.list...), dir, nil), c.want)
			b, err := os.ReadFile(out + "/secret")
			require.NoError(t, err)
			require.Equal(t, "secret", string(b))
			left, err := os.ReadDir(out)
			require.NoError(t, err)
			require.Len(t, left, 1)
		})
	}
	// These are no attacks: an absolute name is one from the directory, a link is
	// replaced and not written through, a link to oneself is kept.
	dir := top + "/fine"
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Symlink(out+"/secret", dir+"/link"))
	require.NoError(t, Unpack(archiveOf(t, reg("/etc/passwd"), reg("./link"), hard("link", "link")), dir, nil))
	for _, name := range []string{"/etc/passwd", "/link"} {
		b, err := os.ReadFile(dir + name)
		require.NoError(t, err)
		require.Equal(t, "evil", string(b))
	}
	b, err := os.ReadFile(out + "/secret")
	require.NoError(t, err)
	require.Equal(t, "secret", string(b))
}

// TestHostileExchange: a process that keeps exchanging a directory for a link to
// another one does not get files written there.
func TestHostileExchange(t *testing.T) {
	top := t.TempDir()
	out, dir := top+"/outside", top+"/dir"
	require.NoError(t, os.MkdirAll(dir+"/a", 0o755))
	require.NoError(t, os.Mkdir(out, 0o755))
	require.NoError(t, os.Symlink(out, dir+"/evil"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/evil", unix.RENAME_EXCHANGE)
			}
		}
	})
	list := []sample{{Header{Name: "b", Type: TypeDir}, ""}}
	for range 20 {
		list = append(list, sample{Header{Name: "a/x", Type: TypeReg}, "evil"}, sample{Header{Name: "b/y", Type: TypeReg}, "good"})
	}
	refused := 0
	for end := time.Now().Add(testTime); refused < 20 && time.Now().Before(end); {
		if Unpack(archiveOf(t, list...), dir, nil) != nil {
			refused++
		}
	}
	close(stop)
	wg.Wait()
	require.Equal(t, 20, refused, "the race did not happen")
	left, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Empty(t, left)
}

// testTime ends a test that hangs.
const testTime = time.Minute

// TestUnreadable: what cannot be read is told, and the rest is there.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/good", []byte("good"), 0o644))
	var b bytes.Buffer
	p := &packer{w: NewWriter(&b), links: map[inode]string{}, buf: make([]byte, bufSize)}
	f, err := os.Open(dir + "/good")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, p.content(int(f.Fd()), &Header{Name: "short", Type: TypeReg, Size: 1000}))
	require.NoError(t, p.w.Close())
	err = p.complaint()
	require.ErrorContains(t, err, `"short": became shorter while it was read`)
	list, err := readAll(&b)
	require.NoError(t, err)
	require.Equal(t, "good"+strings.Repeat("\x00", 996), list[0].content)
}
