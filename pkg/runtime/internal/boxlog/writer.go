package boxlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Name is the current file in a box's folder; older ones are Name.1, Name.2.
const Name = "log"

// What a log may take of the disk: enough for the last hours of a chatty program,
// and little enough that a thousand boxes fit on any host.
const (
	fileLimit = 10 << 20 // bytes per file
	fileCount = 3        // files kept, the current one included
)

// files are the names, newest first.
func files(dir string) []string {
	out := make([]string, fileCount)
	for i := range out {
		out[i] = filepath.Join(dir, Name)
		if i > 0 {
			out[i] = fmt.Sprintf("%s.%d", out[i], i)
		}
	}
	return out
}

// Writer appends to a box's log. A log that cannot be written costs the log and
// nothing else: Write never fails, and Lost counts what is missing. It is opened
// with the first bytes. Its methods may be called from any goroutine.
type Writer struct {
	files []string
	limit int64

	mu   sync.Mutex
	file *os.File
	size int64 // of file, up to the end of its last whole line
	torn bool  // file goes on after size
	buf  []byte
	lost uint64
}

// NewWriter returns the writer of the log in a folder. There must be no other.
func NewWriter(dir string) *Writer { return &Writer{files: files(dir), limit: fileLimit} }

// Write adds what came at a time from a stream.
func (w *Writer) Write(at time.Time, s Stream, p []byte) {
	if len(p) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	stamp := at.UTC().Format(time.RFC3339Nano)
	for len(p) > 0 {
		// One write(2) for whole lines, up to a size.
		w.buf = w.buf[:0]
		n := 0
		for n < len(p) && len(w.buf) < 4*maxText {
			text, took, partial := next(p[n:])
			w.buf = appendEntry(w.buf, stamp, s, text, partial)
			n += took
		}
		if err := w.put(w.buf); err != nil {
			w.lost += uint64(n)
		}
		p = p[n:]
	}
}

// next splits off what one entry takes.
func next(p []byte) (text []byte, took int, partial bool) {
	head := p[:min(len(p), maxText)]
	if i := bytes.IndexByte(head, '\n'); i >= 0 {
		return head[:i], i + 1, false
	}
	return head, len(head), true
}

func (w *Writer) put(lines []byte) error {
	if w.file == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.size > 0 && w.size+int64(len(lines)) > w.limit {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	if w.torn {
		if err := w.file.Truncate(w.size); err != nil {
			return err
		}
		w.torn = false
	}
	n, err := w.file.Write(lines)
	if err != nil {
		w.torn = n > 0
		return err
	}
	w.size += int64(n)
	return nil
}

// open opens the current file, of which a writer that was killed may have left
// the last line unfinished.
func (w *Writer) open() error {
	f, err := os.OpenFile(w.files[0], os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, err := wholeLines(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.size, w.torn = f, size, true // truncating to the same size is nothing
	return nil
}

// wholeLines is the size of a file without an unfinished last line.
func wholeLines(f *os.File) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := fi.Size()
	tail := make([]byte, min(end, maxLine))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil && err != io.EOF {
		return 0, err
	}
	i := bytes.LastIndexByte(tail, '\n')
	return end - int64(len(tail)) + int64(i) + 1, nil
}

// rotate makes every file one older and begins a new one. Readers know by the
// current file's being another that the one before is complete.
func (w *Writer) rotate() error {
	if w.torn {
		if err := w.file.Truncate(w.size); err != nil {
			return err
		}
	}
	err := w.file.Close()
	w.file = nil
	for i := len(w.files) - 1; i > 0; i-- {
		if rerr := os.Rename(w.files[i-1], w.files[i]); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return err // the next put opens what is there
	}
	return w.open()
}

// Lost is how many bytes of output could not be written.
func (w *Writer) Lost() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Close closes the file. A later Write would open it again.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
