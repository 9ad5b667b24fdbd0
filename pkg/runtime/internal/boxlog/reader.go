package boxlog

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"time"
)

// Options say what to read.
type Options struct {
	Tail  int       // so many lines before the end to begin with; negative for all
	Since time.Time // nothing older than this
	// Follow, when not nil, reads on at the end until it reports false, and then
	// whatever came before it did.
	Follow func() bool
}

// pollEvery is how often a reader looks whether there is more.
const pollEvery = 50 * time.Millisecond

// Read iterates over the log of the box in a folder, from whichever process. A
// box without a log has no entries. The text of an entry is the caller's. Reading
// ends with ctx's error when ctx is done. A follower that is slower than the log
// is rotated away misses what was, as any late reader does.
func Read(ctx context.Context, dir string, o Options) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := &reader{names: files(dir)}
		defer r.close()
		if err := r.begin(o.Tail); err != nil {
			yield(Entry{}, err)
			return
		}
		last := o.Follow == nil
		for {
			e, err := r.next()
			switch {
			case err == nil:
				if !e.Time.Before(o.Since) && !yield(e, nil) {
					return
				}
			case err != io.EOF:
				yield(Entry{}, err)
				return
			case last:
				return
			default:
				if last = !o.Follow(); last {
					continue // once more: it may have been written before
				}
				select {
				case <-ctx.Done():
				case <-time.After(pollEvery):
				}
			}
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
		}
	}
}

// reader goes from the oldest file to the newest.
type reader struct {
	names []string // newest first
	open  []*os.File
	lines *bufio.Reader // of open[0]
	at    int64         // where in it the current line begins
	skip  [len(streamNames)]bool

	complete bool // nothing more will be written to open[0]
}

func (r *reader) close() {
	for _, f := range r.open {
		f.Close()
	}
	r.open = nil
}

// snapshot opens all files, oldest first, as they were at one moment.
func (r *reader) snapshot() (list []*os.File, err error) {
	closeAll := func() {
		for _, f := range list {
			f.Close()
		}
	}
	for {
		list = list[:0]
		for i := len(r.names) - 1; i >= 0; i-- {
			f, err := os.Open(r.names[i])
			if errors.Is(err, os.ErrNotExist) {
				continue
			} else if err != nil {
				closeAll()
				return nil, err
			}
			list = append(list, f)
		}
		// A rotation replaces the current file; while it is under way there is none.
		now, err := os.Stat(r.names[0])
		switch {
		case errors.Is(err, os.ErrNotExist):
			return list, nil // none yet, or gone with its box: what there is is what there is
		case err != nil:
			closeAll()
			return nil, err
		}
		if n := len(list); n > 0 {
			if fi, err := list[n-1].Stat(); err == nil && os.SameFile(fi, now) {
				return list, nil
			}
		}
		closeAll()
	}
}

// begin opens the files and goes to the first entry that is wanted.
func (r *reader) begin(tail int) (err error) {
	if r.open, err = r.snapshot(); err != nil || len(r.open) == 0 {
		return err
	}
	r.complete = len(r.open) > 1
	if tail < 0 {
		return r.seek(0)
	}
	file, at, skip, err := findTail(r.open, tail)
	if err != nil {
		return err
	}
	for range file {
		r.open[0].Close()
		r.open = r.open[1:]
	}
	r.complete, r.skip = len(r.open) > 1, skip
	return r.seek(at)
}

// next returns the next entry, or io.EOF where there is none for now.
func (r *reader) next() (Entry, error) {
	for {
		if len(r.open) == 0 {
			if err := r.begin(-1); err != nil {
				return Entry{}, err
			} else if len(r.open) == 0 {
				return Entry{}, io.EOF
			}
		}
		line, err := r.line()
		switch {
		case err == nil:
			e, perr := ParseLine(line)
			if perr != nil || r.skipped(e) {
				continue // what a crash may leave; it hides nothing
			}
			return e, nil
		case err != io.EOF:
			return Entry{}, err
		case len(r.open) == 1 && !r.complete:
			newer, err := r.newer()
			if err != nil {
				return Entry{}, err
			} else if newer == nil {
				return Entry{}, io.EOF
			}
			// Something may have been written between our reading and the rotation, but nothing since.
			r.open, r.complete = append(r.open, newer...), true
		default:
			r.complete = len(r.open) > 2 // of the next one, as there is a newer one
			r.open[0].Close()
			r.open = r.open[1:]
			if err := r.seek(0); err != nil {
				return Entry{}, err
			}
		}
	}
}

// seek starts reading the first open file at an offset.
func (r *reader) seek(at int64) error {
	r.at = at
	if _, err := r.open[0].Seek(at, io.SeekStart); err != nil {
		return err
	}
	if r.lines == nil {
		r.lines = bufio.NewReaderSize(nil, maxLine)
	}
	r.lines.Reset(r.open[0])
	return nil
}

func (r *reader) forget(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

// skipped reports whether an entry ends a line that began before where reading did.
func (r *reader) skipped(e Entry) bool {
	was := r.skip[e.Stream]
	if was && !e.Partial {
		r.skip[e.Stream] = false
	}
	return was
}

// line returns the next whole line without its newline, in memory of its own.
func (r *reader) line() ([]byte, error) {
	var line []byte
	var n int64
	for {
		b, err := r.lines.ReadSlice('\n')
		n += int64(len(b))
		if n <= 2*maxLine { // longer ones are none of ours, and dropped
			line = append(line, b...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			// The rest may come, or the whole be taken back: see Writer.put.
			if serr := r.seek(r.at); serr != nil {
				return nil, serr
			}
			return nil, io.EOF
		case err != nil:
			return nil, err
		}
		r.at += n
		return line[:len(line)-1], nil
	}
}

// newer returns the files that came after the last open one, which is complete
// then; nil while it is the current one.
func (r *reader) newer() ([]*os.File, error) {
	mine, err := r.open[0].Stat()
	if err != nil {
		return nil, err
	}
	now, err := os.Stat(r.names[0])
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && os.SameFile(mine, now):
		return nil, nil // gone with its box, or being rotated
	case err != nil:
		return nil, err
	}
	list, err := r.snapshot()
	if err != nil {
		return nil, err
	}
	for i, f := range list {
		if fi, err := f.Stat(); err == nil && os.SameFile(fi, mine) {
			r.forget(list[:i+1])
			list = list[i+1:]
			break
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list, nil
}
