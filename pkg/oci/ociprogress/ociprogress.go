// Package ociprogress shows the events of an image pull as bars on a terminal.
package ociprogress

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// Display draws one bar per layer under way. Nothing is drawn, and nothing is
// started, before there is a layer to wait for, so that having one costs
// nothing when the image is there already. When it is closed the bars are
// gone: what the command prints next starts on a clean line.
type Display struct {
	out      io.Writer
	terminal bool

	mu       sync.Mutex
	closed   bool
	progress *mpb.Progress
	bars     map[oci.Digest]*bar
}

type bar struct {
	*mpb.Bar
	mu    sync.Mutex
	state oci.State
}

// New returns a display on out, which draws only if that is a terminal: pipes
// and log files get nothing.
func New(out io.Writer) *Display {
	f, ok := out.(*os.File)
	return &Display{out: out, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

const refresh = 100 * time.Millisecond

// Event takes note of an event; it is meant as oci.PullOptions.Progress and
// may be called from any goroutine.
func (d *Display) Event(e oci.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.terminal || d.closed || e.Layer == "" {
		return
	}
	b := d.bars[e.Layer]
	if e.State == oci.Done || e.State == oci.Cached {
		if b != nil {
			b.Abort(true)
			delete(d.bars, e.Layer)
		}
		return
	}
	if b == nil {
		b = d.add(e)
	}
	b.mu.Lock()
	b.state = e.State
	b.mu.Unlock()
	b.SetCurrent(e.Current)
}

func (d *Display) add(e oci.Event) *bar {
	if d.progress == nil {
		d.bars = map[oci.Digest]*bar{}
		d.progress = mpb.New(mpb.WithOutput(d.out), mpb.WithWidth(40), mpb.WithRefreshRate(refresh), mpb.WithAutoRefresh())
	}
	b := &bar{}
	state := decor.Any(func(decor.Statistics) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return string(b.state)
	}, decor.WC{W: len(oci.Downloading) + 1, C: decor.DindentRight})
	// One more than there is: a bar that is full ends, but a layer that has
	// arrived may still be extracting.
	b.Bar = d.progress.AddBar(e.Total+1,
		mpb.PrependDecorators(decor.Name(e.Layer.Short()+" "), state),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
	d.bars[e.Layer] = b
	return b
}

// Close removes the bars. Events that come later are ignored. It may be called
// more than once.
func (d *Display) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.progress == nil {
		return nil
	}
	for _, b := range d.bars {
		b.Abort(true)
	}
	d.progress.Wait()
	return nil
}
