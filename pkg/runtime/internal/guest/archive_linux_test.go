package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tarOf makes an archive of regular files, by name and content.
func tarOf(t testing.TB, files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o640, Size: int64(len(files[i+1])), ModTime: time.Unix(1700000000, 0)}))
		_, err := io.WriteString(w, files[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// untar reads an archive of regular files and directories.
func untar(t testing.TB, r io.Reader) map[string]string {
	files := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		b, err := io.ReadAll(tr)
		require.NoError(t, err)
		files[h.Name] = string(b)
	}
}

func TestArchiveBothWays(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB: more than all buffers on the way
	require.NoError(t, b.ArchivePut(ctx, agentapi.ArchivePut{Path: dir}, bytes.NewReader(tarOf(t, "a", "one", "d/b", big))))
	info, err := b.StatPath(ctx, dir+"/d/b", false)
	require.NoError(t, err)
	require.Equal(t, agentapi.PathInfo{Mode: unix.S_IFREG | 0o640, Size: 4 << 20, ModTime: 1700000000e9}, info)
	for range 2 {
		a, err := b.ArchiveGet(ctx, dir+"/.", false)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"./": "", "./a": "one", "./d/": "", "./d/b": big}, untar(t, a))
		n, err := a.Read(make([]byte, 1)) // behind the archive's own end
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
	}
	require.Zero(t, b.Unasked())
}

func TestArchiveErrors(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	dir := t.TempDir()
	_, err := b.StatPath(ctx, dir+"/missing", false)
	require.ErrorIs(t, err, agentapi.ErrNoPath)

	a, err := b.ArchiveGet(ctx, dir+"/missing", false)
	require.NoError(t, err)
	_, err = io.ReadAll(a)
	require.ErrorIs(t, err, agentapi.ErrNoPath)
	a.Close()

	// The error of the guest is told, however much is still to be sent.
	endless := io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("x"), 1024)), zeros{})
	require.ErrorIs(t, b.ArchivePut(ctx, agentapi.ArchivePut{Path: dir}, endless), agentapi.ErrArchive)
	require.ErrorIs(t, b.ArchivePut(ctx, agentapi.ArchivePut{Path: dir + "/missing"}, zeros{}), agentapi.ErrNoPath)
	broken := errors.New("broken")
	require.ErrorIs(t, b.ArchivePut(ctx, agentapi.ArchivePut{Path: dir}, iotest.ErrReader(broken)), broken)

	// A copy that is given up ends, and leaves the connection in order.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 8<<20), 0o600))
	short, cancel := context.WithCancel(ctx)
	a, err = b.ArchiveGet(short, dir, false)
	require.NoError(t, err)
	_, err = io.ReadFull(a, make([]byte, 4096))
	require.NoError(t, err)
	cancel()
	_, err = io.Copy(io.Discard, a)
	require.ErrorIs(t, err, context.Canceled)
	a.Close()
	for range 40 { // more than may run at one time: those before have ended
		a, err = b.ArchiveGet(ctx, dir, false)
		require.NoError(t, err)
		_, err = a.Read(make([]byte, 10))
		require.NoError(t, err)
		a.Close()
	}
	require.NoError(t, b.Ping(ctx))
}

// TestArchiveLimit: copies beyond the limit are refused, and room is made by
// those that end.
func TestArchiveLimit(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 8<<20), 0o600))
	var open []*Archive
	var err error
	for range 32 {
		a, gerr := b.ArchiveGet(ctx, dir, false)
		require.NoError(t, gerr)
		_, gerr = a.Read(make([]byte, 10))
		require.NoError(t, gerr)
		open = append(open, a)
	}
	a, err := b.ArchiveGet(ctx, dir, false)
	require.NoError(t, err)
	_, err = io.ReadAll(a)
	requireCode(t, agentapi.CodeLimit, err)
	a.Close()
	for _, a := range open {
		a.Close()
	}
	require.Eventually(t, func() bool {
		a, err := b.ArchiveGet(ctx, dir, false)
		require.NoError(t, err)
		defer a.Close()
		_, err = a.Read(make([]byte, 10))
		return err == nil
	}, testTime, 10*time.Millisecond)
}

// TestArchiveBeforeSetup: there is no root yet to copy from.
func TestArchiveBeforeSetup(t *testing.T) {
	b := start(t, nil)
	ctx := testContext(t)
	_, err := b.StatPath(ctx, "/", false)
	requireCode(t, agentapi.CodeState, err)
	_, err = b.Processes(ctx)
	requireCode(t, agentapi.CodeState, err)
	_, err = b.Stats(ctx)
	requireCode(t, agentapi.CodeState, err)
}

// TestArchiveEndsWithTheBox: a copy that goes on for ever does not keep the box
// from ending.
func TestArchiveEndsWithTheBox(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	began, released := make(chan struct{}), make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- b.ArchivePut(ctx, agentapi.ArchivePut{Path: t.TempDir()}, &waiting{data: tarOf(t, "a", "x")[:600], began: began, release: released})
	}()
	<-began
	require.NoError(t, b.Shutdown(ctx, 0))
	close(released)
	require.Error(t, <-result)
}

// waiting gives some data, then nothing until it is released.
type waiting struct {
	data           []byte
	began, release chan struct{}
}

func (w *waiting) Read(p []byte) (int, error) {
	if len(w.data) > 0 {
		n := copy(p, w.data)
		w.data = w.data[n:]
		return n, nil
	}
	close(w.began)
	<-w.release
	return 0, io.EOF
}

func TestProcessesAndStats(t *testing.T) {
	b := start(t, &agentapi.Setup{})
	ctx := testContext(t)
	list, err := b.Processes(ctx)
	require.NoError(t, err)
	require.Empty(t, list.List, "the agent shows itself")
	require.Zero(t, list.Total)

	p, err := b.Exec(ctx, sh("echo up; exec sleep 1000 "+strings.Repeat("0", 400)))
	require.NoError(t, err)
	defer p.Close()
	var listed agentapi.ProcessInfo
	require.Eventually(t, func() bool {
		list, err := b.Processes(ctx)
		require.NoError(t, err)
		require.Len(t, list.List, 1)
		require.EqualValues(t, 1, list.Total)
		listed = list.List[0]
		require.LessOrEqual(t, listed.Start, list.Now)
		return strings.HasPrefix(listed.Command, "sleep 1000 000") && listed.RSS > 0 // which it has a moment after its name
	}, testTime, time.Millisecond)
	require.Len(t, listed.Command, agentapi.MaxCommandLine)
	require.EqualValues(t, p.PID, listed.PID)
	require.EqualValues(t, 1, listed.PPID)
	require.EqualValues(t, 0, listed.UID)
	require.EqualValues(t, 1, listed.Threads)

	st, err := b.Stats(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, st.Processes)
	require.EqualValues(t, 1, st.Threads)
	var si unix.Sysinfo_t
	require.NoError(t, unix.Sysinfo(&si))
	require.InEpsilon(t, uint64(si.Totalram)*uint64(si.Unit), st.MemTotal, 0.01)
	require.Positive(t, st.CPUUser+st.CPUSystem)
	require.Positive(t, st.CPUIdle)
	require.Less(t, st.MemAvail, st.MemTotal)
	require.Greater(t, st.DiskTotal, st.DiskUsed)
	require.Positive(t, st.DiskUsed)
	require.NoError(t, p.Kill(ctx))
}
