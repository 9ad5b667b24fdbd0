package ociprogress

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var layer = oci.Digest("sha256:" + strings.Repeat("ab", 32))

func TestQuietInAPipe(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	d := New(w)
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Current: 1, Total: 10})
	d.Event(oci.Event{Layer: layer, State: oci.Done, Current: 10, Total: 10})
	require.NoError(t, d.Close())
	require.NoError(t, w.Close())
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, b)

	var buf bytes.Buffer
	d = New(&buf)
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Total: 10})
	require.NoError(t, d.Close())
	require.Empty(t, buf.String())
}

// screen is a terminal and all that was written to it.
type screen struct {
	tty, ptmx *os.File
	mu        sync.Mutex
	got       bytes.Buffer
	done      chan struct{}
}

func newScreen(t *testing.T) *screen {
	ptmx, tty, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 100}))
	s := &screen{tty: tty, ptmx: ptmx, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		b := make([]byte, 4096)
		for {
			n, err := ptmx.Read(b)
			s.mu.Lock()
			s.got.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func (s *screen) await(t *testing.T, text string) {
	require.Eventually(t, func() bool { return strings.Contains(s.text(), text) }, time.Minute, time.Millisecond, "%q is not shown", text)
}

// close returns all that was written.
func (s *screen) close(t *testing.T) string {
	require.NoError(t, s.tty.Close())
	<-s.done
	s.ptmx.Close()
	return s.text()
}

func TestTerminal(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newScreen(t)
	d := New(s.tty)
	d.Event(oci.Event{State: oci.Resolving})
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Current: 1 << 20, Total: 3 << 20})
	d.Event(oci.Event{Layer: layer, State: oci.Extracting, Current: 3 << 20, Total: 3 << 20})
	s.await(t, "extracting")
	d.Event(oci.Event{Layer: layer, State: oci.Done, Current: 3 << 20, Total: 3 << 20})
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Total: 1})
	got := s.close(t)
	require.Contains(t, got, "abababababab")
	require.Contains(t, got, "3.0 MiB / 3.0 MiB")
	// The last thing done is to take the bars away again.
	last := got[strings.LastIndex(got, "abababababab"):]
	require.Contains(t, last, "\x1b[", "bars are erased: %q", last)
}

// An import that has no layers to tell of is shown once it takes a while.
func TestImportIsShown(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newScreen(t)
	d := New(s.tty)
	ref := "dir:/" + strings.Repeat("a-long-way/", 20) + "rootfs"
	for range 2 { // the second one after the first is over
		d.Event(oci.Event{Reference: ref, State: oci.Resolving})
		require.Nil(t, d.pending)
		d.Event(oci.Event{Reference: ref, State: oci.Waiting})
		d.Event(oci.Event{Reference: ref, State: oci.Extracting})
		s.await(t, "a-long-way/rootfs")
		s.await(t, "ing")
		d.Event(oci.Event{Reference: ref, State: oci.Done})
	}
	require.NoError(t, d.Close())
	got := s.close(t)
	require.NotContains(t, got, "dir:/")
	last := got[strings.LastIndex(got, "rootfs"):]
	require.Contains(t, last, "\x1b[", "the line is erased: %q", last)
}

// What is over in a moment is not, and a display that is closed in between
// leaves nothing running.
func TestShortImportIsNotShown(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newScreen(t)
	d := New(s.tty)
	d.Event(oci.Event{Reference: "dir:/x", State: oci.Extracting})
	d.Event(oci.Event{Reference: "dir:/x", State: oci.Done})
	require.Nil(t, d.progress)
	d.Event(oci.Event{Reference: "dir:/x", State: oci.Extracting})
	require.NoError(t, d.Close())
	require.Nil(t, d.progress)
	require.Empty(t, s.close(t))
}

// Without a layer to fetch nothing is started, as for every command that does
// not pull.
func TestIdleCostsNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	ptmx, tty, err := pty.Open()
	require.NoError(t, err)
	defer ptmx.Close()
	defer tty.Close()
	d := New(tty)
	d.Event(oci.Event{State: oci.Cached})
	require.Nil(t, d.progress)
	require.NoError(t, d.Close())
}
