package runtime

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/boxlog"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// Stream is where a command wrote to.
type Stream string

// Streams. What a terminal shows is standard output.
const (
	StreamStdout Stream = "stdout"
	StreamStderr Stream = "stderr"
)

// LogOptions say which part of a log to read. The zero value is all of it.
type LogOptions struct {
	Follow bool      // go on until the box has stopped
	Tail   int       // only so many lines before the end, then what follows; 0 or less for all
	Since  time.Time // nothing older
}

// LogEntry is a line that the main command wrote, or a piece of one.
type LogEntry struct {
	Time    time.Time // when it reached the VM process
	Stream  Stream
	Text    []byte // as it was written; no newline
	Partial bool   // no newline followed: the stream's next entry goes on with the line
}

// Bytes are what the command wrote: the text, and a newline unless Partial.
func (e LogEntry) Bytes() []byte {
	if e.Partial {
		return e.Text
	}
	return append(e.Text[:len(e.Text):len(e.Text)], '\n')
}

// Logs iterates over what the main command wrote, in this run of the box and
// before. The log is kept with the box, the last 20 to 30 MiB of it. Following
// ends when the box has stopped, or is gone, and all was read. An error ends the
// iteration.
func (b *LiteBox) Logs(ctx context.Context, o LogOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		if _, err := b.rt.find(ctx, string(b.id)); err != nil {
			yield(LogEntry{}, err)
			return
		}
		opts := boxlog.Options{Tail: o.Tail, Since: o.Since}
		if o.Tail <= 0 {
			opts.Tail = -1
		}
		if o.Follow {
			opts.Follow = b.followed(ctx)
		}
		for e, err := range boxlog.Read(ctx, b.dir(), opts) {
			if err != nil {
				yield(LogEntry{}, wrap(ErrStorage, err, "log of box %s", b))
				return
			}
			if !yield(LogEntry{Time: e.Time, Stream: Stream(e.Stream.String()), Text: e.Text, Partial: e.Partial}, nil) {
				return
			}
		}
	}
}

// followEvery is how often a follower asks whether the box still runs.
const followEvery = 250 * time.Millisecond

// followed tells whether there may be more to come.
func (b *LiteBox) followed(ctx context.Context) func() bool {
	var asked time.Time
	runs := true
	return func() bool {
		if !runs || time.Since(asked) < followEvery {
			return runs
		}
		row, err := b.rt.find(ctx, string(b.id))
		switch {
		case ctx.Err() != nil: // Read ends by itself
		case err != nil:
			runs = !errors.Is(err, ErrNotFound) // a busy state says nothing
		default:
			runs = BoxStatus(row.Status).IsActive()
		}
		asked = time.Now()
		return runs
	}
}

// ConsoleLog returns the last of what the box's kernel and init printed, up to a
// MiB, with all that could steer a terminal made visible.
func (b *LiteBox) ConsoleLog(ctx context.Context) (string, error) {
	if _, err := b.rt.find(ctx, string(b.id)); err != nil {
		return "", err
	}
	var text []byte
	for _, name := range []string{b.ConsolePath() + ".1", b.ConsolePath()} {
		p, err := readUpTo(name, 1<<20)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", wrap(ErrStorage, err, "console log of box %s", b)
		}
		text = append(text, p...)
	}
	return vmm.Printable(text[max(0, len(text)-1<<20):]), nil
}

// Printable makes text that a guest had a hand in, as it has in many an error, fit for
// a terminal: control characters but newline and tab, and what turns text around, are
// shown as dots; carriage returns are dropped.
func Printable(text string) string { return vmm.Printable([]byte(text)) }

func readUpTo(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
