package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// treeHeaders is a tree with everything that an archive can say about a file.
func treeHeaders() []tar.Header {
	at := func(n int64) time.Time { return time.Unix(1600000000+n, 123456700+n) }
	long := "tree/" + strings.Repeat("directory/", 20)
	return []tar.Header{
		{Name: "tree/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2, ModTime: at(0)},
		{Name: "tree/file", Typeflag: tar.TypeReg, Mode: 0o6755, Uid: 1000, Gid: 70000, Size: 7, ModTime: at(1), PAXRecords: map[string]string{
			"SCHILY.xattr.user.kept":           "value\x00with zero",
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
		{Name: "tree/hard", Typeflag: tar.TypeLink, Linkname: "tree/file", Mode: 0o6755, Uid: 1000, Gid: 70000, ModTime: at(1)},
		{Name: "tree/soft", Typeflag: tar.TypeSymlink, Linkname: "../../nowhere", Mode: 0o777, Uid: 3, Gid: 4, ModTime: at(2)},
		{Name: "tree/null", Typeflag: tar.TypeChar, Mode: 0o620, Gid: 5, Devmajor: 1, Devminor: 3, ModTime: at(3)},
		{Name: "tree/disk", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 300, ModTime: at(4)},
		{Name: "tree/fifo", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 9, ModTime: at(5)},
		{Name: "tree/sub/", Typeflag: tar.TypeDir, Mode: 0o500, Uid: 1 << 31, ModTime: at(6), PAXRecords: map[string]string{"SCHILY.xattr.user.dir": "d"}},
		{Name: "tree/sub/empty", Typeflag: tar.TypeReg, Mode: 0, ModTime: at(7)},
		{Name: long[:len(long)-1] + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at(8)},
		{Name: long + strings.Repeat("n", 255), Typeflag: tar.TypeReg, Mode: 0o644, Size: 3, ModTime: at(9)},
		{Name: "tree/a name\nof two lines", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-5, 0)},
	}
}

func writeTar(t testing.TB, headers []tar.Header) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Format = tar.FormatPAX
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, strings.Repeat("x", int(h.Size)))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return &b
}

// entryText is everything that an archive says of a file, in a line. Of files
// with several names the first one met is the file, so both are called by it.
func entryText(h *tar.Header) string {
	attributes := fmt.Sprint(len(h.PAXRecords))
	for _, k := range []string{"user.kept", "security.capability", "user.dir"} {
		attributes += fmt.Sprintf(" %q", h.PAXRecords["SCHILY.xattr."+k])
	}
	return fmt.Sprintf("%c %o %d:%d %d bytes %d,%d %d %q %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.Devmajor, h.Devminor, h.ModTime.UnixNano(), h.Linkname, attributes)
}

func readTar(t testing.TB, r io.Reader) map[string]string {
	out := map[string]string{}
	linked := map[string]bool{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			require.LessOrEqual(t, len(linked), 1)
			return out
		}
		require.NoError(t, err)
		content, err := io.ReadAll(tr)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("x", int(h.Size)), string(content))
		for k := range h.PAXRecords {
			if !strings.HasPrefix(k, "SCHILY.xattr.") {
				delete(h.PAXRecords, k)
			}
		}
		if h.Name == "tree/file" || h.Name == "tree/hard" { // whichever the directory has first
			linked["pair"] = true
			if h.Typeflag == tar.TypeLink {
				require.Contains(t, []string{"tree/file", "tree/hard"}, h.Linkname)
				out["pair, second"] = "link"
				continue
			}
			out["pair, first"] = entryText(h)
			continue
		}
		out[h.Name] = entryText(h)
	}
}

// TestGuestCopy copies both ways with one box.
func TestGuestCopy(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "copy")
	require.NoError(t, err)
	defer box.Stop(ctx)

	t.Run("tree", func(t *testing.T) {
		want := readTar(t, writeTar(t, treeHeaders()))
		for range 2 { // the second time over what is there
			require.NoError(t, box.CopyTo(ctx, "/root", writeTar(t, treeHeaders()), CopyOptions{}))
			r, st, err := box.CopyFrom(ctx, "/root/tree", CopyOptions{})
			require.NoError(t, err)
			require.Equal(t, want, onlyNamed(readTar(t, r), treeHeaders()))
			require.NoError(t, r.Close())
			require.Equal(t, PathStat{Name: "tree", Mode: fs.ModeDir | fs.ModeSticky | 0o777, Size: st.Size, ModTime: time.Unix(1600000000, 123456700), Owner: Owner{1, 2}}, st)
		}
		stdout, _, _ := output(t, box, sh(`cd /root/tree; stat -c '%a %u:%g %h %Y' file hard; readlink soft; stat -c '%F %t,%T' null disk fifo`))
		require.Equal(t, "6755 1000:70000 2 1600000001\n6755 1000:70000 2 1600000001\n../../nowhere\n"+
			"character special file 1,3\nblock special file 7,12c\nfifo 0,0\n", stdout)
		require.NoError(t, box.CopyTo(ctx, "/tmp", writeTar(t, treeHeaders()), CopyOptions{Owner: &Owner{7, 8}}))
		stdout, _, _ = output(t, box, sh(`find /tmp/tree | wc -l; find /tmp/tree ! -user 7 -o ! -group 8 | wc -l`))
		lines := strings.Fields(stdout)
		require.Len(t, lines, 2)
		require.Equal(t, "0", lines[1], "files that do not belong to the owner asked for")
		require.NotEqual(t, "0", lines[0])
	})
	t.Run("64 MiB", func(t *testing.T) {
		const size = 64 << 20
		var seed [32]byte
		pr, pw := io.Pipe()
		go func() {
			w := tar.NewWriter(pw)
			w.WriteHeader(&tar.Header{Name: "big", Mode: 0o600, Size: size})
			io.CopyN(w, rand.NewChaCha8(seed), size)
			pw.CloseWithError(w.Close())
		}()
		require.NoError(t, box.CopyTo(ctx, "/var", pr, CopyOptions{}))
		r, st, err := box.CopyFrom(ctx, "/var/big", CopyOptions{})
		require.NoError(t, err)
		defer r.Close()
		require.EqualValues(t, size, st.Size)
		tr := tar.NewReader(r)
		h, err := tr.Next()
		require.NoError(t, err)
		require.EqualValues(t, size, h.Size)
		again := rand.NewChaCha8(seed)
		got, want := make([]byte, 64<<10), make([]byte, 64<<10)
		for at := 0; at < size; at += len(got) {
			_, err := io.ReadFull(tr, got)
			require.NoError(t, err)
			again.Read(want)
			require.True(t, bytes.Equal(want, got), "at %d", at)
		}
		_, err = tr.Next()
		require.Equal(t, io.EOF, err)
	})
	t.Run("file systems of the kernel", func(t *testing.T) {
		name := []tar.Header{{Name: "hostname", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3}}
		require.NoError(t, box.CopyTo(ctx, "/proc/sys/kernel", writeTar(t, name), CopyOptions{}))
		require.NoError(t, box.CopyTo(ctx, "/dev/shm", writeTar(t, name), CopyOptions{}))
		stdout, _, _ := output(t, box, sh(`hostname; cat /dev/shm/hostname`))
		require.Equal(t, "xxx\nxxx", stdout)
		r, _, err := box.CopyFrom(ctx, "/proc/sys/kernel/hostname", CopyOptions{})
		require.NoError(t, err)
		defer r.Close()
		tr := tar.NewReader(r)
		_, err = tr.Next()
		require.NoError(t, err)
		b, err := io.ReadAll(tr)
		require.NoError(t, err)
		require.Equal(t, "xxx\n", string(b))
	})
	t.Run("errors", func(t *testing.T) {
		for path, kind := range map[string]Kind{"/missing": ErrNotFound, "/etc/passwd/": ErrInvalidArgument, "/\x00": ErrInvalidArgument} {
			_, err := box.StatPath(ctx, path)
			require.ErrorIs(t, err, kind, path)
			require.Equal(t, kind == ErrNotFound, errors.Is(err, fs.ErrNotExist))
			require.ErrorIs(t, box.CopyTo(ctx, path, new(bytes.Buffer), CopyOptions{}), kind, path)
			_, _, err = box.CopyFrom(ctx, path, CopyOptions{})
			require.ErrorIs(t, err, kind, path)
		}
		require.ErrorIs(t, box.CopyTo(ctx, "/root", strings.NewReader(strings.Repeat("no archive", 100)), CopyOptions{}), ErrInvalidArgument)
		short, cancel := context.WithCancel(ctx)
		r, _, err := box.CopyFrom(short, "/var/big", CopyOptions{})
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, r)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, r.Close())
		st, err := box.StatPath(ctx, "/root/tree/soft")
		require.NoError(t, err)
		require.Equal(t, "../../nowhere", st.LinkTarget)
		require.Equal(t, fs.ModeSymlink|0o777, st.Mode)
	})
	t.Run("processes and statistics", func(t *testing.T) {
		ex, err := box.Run(ctx, sh("echo up; exec sleep 1000").User("1:1"))
		require.NoError(t, err)
		_, err = io.ReadFull(ex.Stdout(), make([]byte, 3))
		require.NoError(t, err)
		var list []Process
		require.Eventually(t, func() bool {
			list, err = box.Processes(ctx)
			require.NoError(t, err)
			return len(list) == 1 && list[0].Command == "sleep 1000"
		}, testTimeout, 10*time.Millisecond, "%v", list)
		p := list[0]
		require.EqualValues(t, 1, p.UID)
		require.Equal(t, 1, p.PPID)
		require.Empty(t, p.TTY)
		require.WithinDuration(t, time.Now(), p.Start, testTimeout)
		st, err := box.GuestStats(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, st.Processes)
		require.Equal(t, 1, st.Threads)
		require.InDelta(t, 256<<20, st.MemoryTotal, 64<<20)
		require.Positive(t, st.MemoryUsed())
		require.Positive(t, st.CPUSystem)
		require.Greater(t, st.BlockRead, int64(0))
		require.Greater(t, st.BlockWrite, int64(0))
		require.InEpsilon(t, int64(10)<<30, st.DiskTotal, 0.1)
		require.Greater(t, st.DiskUsed, int64(64<<20))
		require.NoError(t, ex.Kill(ctx))
		_, err = ex.Wait(ctx)
		require.NoError(t, err)
	})
}

// onlyNamed leaves out the directories that an archive did not have.
func onlyNamed(got map[string]string, headers []tar.Header) map[string]string {
	named := map[string]bool{"pair, first": true, "pair, second": true}
	for _, h := range headers {
		named[h.Name] = true
	}
	for name := range got {
		if !named[name] {
			delete(got, name)
		}
	}
	return got
}

// TestGuestCopyStopped: a box that does not run is booted for a copy, and is not
// left running.
func TestGuestCopyStopped(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	opts := smallBox(t)
	opts.KeepOnStop = true
	box, err := rt.Create(ctx, opts, "copystopped")
	require.NoError(t, err)
	defer rt.Remove(ctx, string(box.ID()), true)
	_, err = box.Processes(ctx)
	require.ErrorIs(t, err, ErrInvalidState)
	_, err = box.GuestStats(ctx)
	require.ErrorIs(t, err, ErrInvalidState)

	release, err := box.OpenForCopy(ctx)
	require.NoError(t, err)
	require.NoError(t, box.CopyTo(ctx, "/", writeTar(t, []tar.Header{{Name: "f", Mode: 0o640, Size: 9}}), CopyOptions{}))
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusRunning, i.Status)
	require.NoError(t, release())
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, i.Status, "it was never started")
	require.Zero(t, i.StartedAt)
	require.Zero(t, i.FinishedAt)

	r, st, err := box.CopyFrom(ctx, "/f", CopyOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 9, st.Size)
	_, err = io.Copy(io.Discard, r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, i.Status)

	// Several at once: who has booted the box ends it when all are done.
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			name := fmt.Sprint("many", i)
			if err := box.CopyTo(ctx, "/", writeTar(t, []tar.Header{{Name: name, Mode: 0o640, Size: 4 << 20}}), CopyOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, i.Status)
	r, _, err = box.CopyFrom(ctx, "/many2", CopyOptions{})
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r)
	require.NoError(t, err)
	require.Greater(t, n, int64(4<<20))
	require.NoError(t, r.Close())

	require.NoError(t, box.Start(ctx))
	require.NoError(t, box.Stop(ctx))
	started, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusStopped, started.Status)
	_, err = box.StatPath(ctx, "/f")
	require.NoError(t, err)
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusStopped, i.Status)
	require.Equal(t, started.StartedAt, i.StartedAt)

	ephemeral, err := rt.Create(ctx, smallBox(t), "copyephemeral")
	require.NoError(t, err)
	_, err = ephemeral.OpenForCopy(ctx)
	require.ErrorIs(t, err, ErrInvalidState)
	require.NoError(t, rt.Remove(ctx, string(ephemeral.ID()), false))
}
