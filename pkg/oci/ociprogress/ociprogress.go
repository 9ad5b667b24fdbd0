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

// Display draws one bar per layer under way, and a spinner for work on an image
// as a whole that takes longer than a moment, such as the import of a folder.
// Nothing is drawn, and nothing is started, before there is something to wait
// for, so that having one costs nothing when the image is there already. When it is closed the bars are
// gone: what the command prints next starts on a clean line.
type Display struct {
	out      io.Writer
	terminal bool

	mu       sync.Mutex
	closed   bool
	progress *mpb.Progress
	bars     map[oci.Digest]*bar // "" is the image's
	pending  *time.Timer         // until the image's bar is worth showing
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

const (
	refresh = 100 * time.Millisecond
	moment  = 300 * time.Millisecond
)

// Event takes note of an event; it is meant as oci.PullOptions.Progress and
// may be called from any goroutine.
func (d *Display) Event(e oci.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.terminal || d.closed {
		return
	}
	b := d.bars[e.Layer]
	switch {
	case e.State == oci.Done || e.State == oci.Cached:
		d.remove(e.Layer)
		return
	case b != nil:
	case e.Layer != "":
		b = d.add(e)
	case e.State == oci.Resolving || d.pending != nil:
		return
	default:
		d.pending = time.AfterFunc(moment, func() { d.addImage(e) })
		return
	}
	b.mu.Lock()
	b.state = e.State
	b.mu.Unlock()
	b.SetCurrent(e.Current)
}

func (d *Display) remove(layer oci.Digest) {
	if layer == "" && d.pending != nil {
		d.pending.Stop() // or it finds itself forgotten
		d.pending = nil
	}
	if b := d.bars[layer]; b != nil {
		b.Abort(true)
		delete(d.bars, layer)
	}
}

func (d *Display) start() {
	if d.progress == nil {
		d.bars = map[oci.Digest]*bar{}
		d.progress = mpb.New(mpb.WithOutput(d.out), mpb.WithWidth(40), mpb.WithRefreshRate(refresh), mpb.WithAutoRefresh())
	}
}

// addImage shows that an image is being worked on; how much is left is unknown.
func (d *Display) addImage(e oci.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.pending == nil {
		return
	}
	d.pending = nil
	d.start()
	b := &bar{state: e.State}
	b.Bar = d.progress.AddSpinner(0, mpb.BarWidth(1),
		mpb.PrependDecorators(decor.Name(tail(e.Reference)+" "), b.decorator()),
		mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	d.bars[""] = b
}

// tail is the end of a reference, which tells more than its beginning.
func tail(ref string) string {
	const most = 48
	if len(ref) <= most {
		return ref
	}
	return "…" + ref[len(ref)-most:]
}

func (b *bar) decorator() decor.Decorator {
	return decor.Any(func(decor.Statistics) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return string(b.state)
	}, decor.WC{W: len(oci.Downloading) + 1, C: decor.DindentRight})
}

func (d *Display) add(e oci.Event) *bar {
	d.start()
	b := &bar{}
	state := b.decorator()
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
	if d.pending != nil {
		d.pending.Stop()
		d.pending = nil
	}
	if d.progress == nil {
		return nil
	}
	for _, b := range d.bars {
		b.Abort(true)
	}
	d.progress.Wait()
	return nil
}
