package runtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// FollowConsole writes what [LiteBox.ConsoleLog] returns, or its last lines, to w,
// and then what the box's kernel and init print until the box has stopped, or is
// gone. lines is how many to begin with; all if it is negative. What is printed
// faster than w takes it may have gaps of half a MiB and more. It returns w's error,
// ctx's, or ErrStorage.
func (b *LiteBox) FollowConsole(ctx context.Context, w io.Writer, lines int) error {
	if _, err := b.rt.find(ctx, string(b.id)); err != nil {
		return err
	}
	f := consoleFollower{log: fileFollower{path: b.ConsolePath()}, w: w}
	defer f.log.close()
	if err := f.begin(lines); err != nil {
		return wrap(ErrStorage, err, "console log of box %s", b)
	}
	runs := b.followed(ctx)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		last := !runs() // before the look: what was printed up to here is seen by it
		if err := f.log.copy(f.write); err != nil && f.err == nil {
			return wrap(ErrStorage, err, "console log of box %s", b)
		}
		if last || f.err != nil {
			return errors.Join(f.flush(), f.err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// consoleFollower makes a console's log harmless.
type consoleFollower struct {
	log  fileFollower
	w    io.Writer
	rest []byte // the beginning of a character, of which more may come
	err  error  // of w
}

// begin writes the end of what there is.
func (f *consoleFollower) begin(lines int) error {
	const limit = 1 << 20
	text, err := f.log.begin(limit)
	if err != nil {
		return err
	}
	text = text[max(0, len(text)-limit):]
	if lines >= 0 {
		text = lastLines(text, lines)
	}
	_ = f.write(text) // kept in f.err
	return nil
}

// lastLines is the end of a text, which may lack its last newline.
func lastLines(text []byte, n int) []byte {
	if n == 0 {
		return nil
	}
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for range n {
		if at = bytes.LastIndexByte(text[:at], '\n'); at < 0 {
			return text
		}
	}
	return text[at+1:]
}

// write makes text harmless and writes it, but for the beginning of a character.
func (f *consoleFollower) write(text []byte) error {
	text = append(f.rest, text...)
	whole := len(text)
	for i := len(text) - 1; i >= 0 && i > len(text)-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRune(text[i:]) {
				whole = i
			}
			break
		}
	}
	f.rest = bytes.Clone(text[whole:])
	if whole > 0 && f.err == nil {
		_, f.err = io.WriteString(f.w, vmm.Printable(text[:whole]))
	}
	return f.err
}

// flush writes what has become of no character.
func (f *consoleFollower) flush() error {
	if len(f.rest) == 0 || f.err != nil {
		return nil
	}
	_, err := io.WriteString(f.w, vmm.Printable(f.rest))
	return err
}
