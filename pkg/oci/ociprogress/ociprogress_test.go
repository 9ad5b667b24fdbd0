package ociprogress

import (
	"bytes"
	"io"
	"os"
	"strings"
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

func TestTerminal(t *testing.T) {
	defer goleak.VerifyNone(t)
	ptmx, tty, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 100}))
	var got bytes.Buffer
	shown := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		seen := false
		for {
			n, err := ptmx.Read(b)
			got.Write(b[:n])
			if !seen && strings.Contains(got.String(), "extracting") {
				seen = true
				close(shown)
			}
			if err != nil {
				return
			}
		}
	}()
	d := New(tty)
	d.Event(oci.Event{State: oci.Resolving})
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Current: 1 << 20, Total: 3 << 20})
	d.Event(oci.Event{Layer: layer, State: oci.Extracting, Current: 3 << 20, Total: 3 << 20})
	select {
	case <-shown:
	case <-time.After(time.Minute):
		t.Error("no bar is drawn")
	}
	d.Event(oci.Event{Layer: layer, State: oci.Done, Current: 3 << 20, Total: 3 << 20})
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	d.Event(oci.Event{Layer: layer, State: oci.Downloading, Total: 1})
	require.NoError(t, tty.Close())
	<-done
	ptmx.Close()
	require.Contains(t, got.String(), "abababababab")
	require.Contains(t, got.String(), "3.0 MiB / 3.0 MiB")
	// The last thing done is to take the bars away again.
	last := got.String()[strings.LastIndex(got.String(), "abababababab"):]
	require.Contains(t, last, "\x1b[", "bars are erased: %q", last)
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
