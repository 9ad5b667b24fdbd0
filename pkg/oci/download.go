package oci

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
)

// download fills a file of partial/ with a blob, continuing where an earlier
// attempt, of this process or a dead one, ended. Whoever converts the layer
// reads the same file right behind it (see Read), so that one pass over the
// network does both and an interruption costs the reader nothing but time.
type download struct {
	s    *Store
	f    *os.File // locked, in partial/
	desc descriptor
	// report is called as bytes arrive.
	report func()

	mu      sync.Mutex
	grown   sync.Cond
	written int64 // bytes of f that are there
	err     error // why no more will come; io.EOF at the end

	read int64 // of the one reader
}

// newDownload starts from what f already has. resumed is how much that is: it
// has not been checked, only the digest at the end does that.
func (s *Store) newDownload(f *os.File, desc descriptor) (d *download, resumed int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	d = &download{s: s, f: f, desc: desc, written: st.Size()}
	d.grown.L = &d.mu
	if d.written > desc.Size {
		d.written = 0
		if err := f.Truncate(0); err != nil {
			return nil, 0, err
		}
	}
	return d, d.written, nil
}

// run fetches what is missing. It returns when the file is complete or cannot
// be completed, and has then told the reader.
func (d *download) run(ctx context.Context, src source) error {
	err := d.fetch(ctx, src)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	if err == nil {
		d.err = io.EOF
	}
	d.grown.Broadcast()
	return err
}

// worthwhile is how much a request must bring for failures before it to be
// forgotten; a registry that cuts every connection after a byte is not allowed
// to keep us for ever.
const worthwhile = 32 << 10

func (d *download) fetch(ctx context.Context, src source) error {
	try := retrier{s: d.s}
	for d.written < d.desc.Size {
		before := d.written
		err := d.fetchOnce(ctx, src)
		if err == nil {
			return nil
		}
		if d.written-before >= worthwhile {
			try.progress()
		}
		if err := try.again(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

func (d *download) fetchOnce(ctx context.Context, src source) error {
	body, err := src.blob(ctx, d.desc, d.written)
	if err != nil {
		return err
	}
	defer body.Close()
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if int64(n) > d.desc.Size-d.written {
			return fail(ErrCorrupt, "blob %s is longer than the %d bytes its manifest says", d.desc.Digest, d.desc.Size)
		}
		if n > 0 {
			if _, werr := d.f.WriteAt(buf[:n], d.written); werr != nil {
				return d.s.diskError(werr, d.desc.Size-d.written)
			}
			d.advance(int64(n))
			d.report()
		}
		switch {
		case errors.Is(err, io.EOF) && d.written < d.desc.Size:
			return &tempError{err: fail(ErrCorrupt, "blob %s ends after %d of %d bytes", d.desc.Digest, d.written, d.desc.Size)}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (d *download) advance(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written += n
	d.grown.Broadcast()
}

// have is how much of the blob is there; any goroutine may ask.
func (d *download) have() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written
}

// Read follows the file as it grows. It fails with the download's own error.
func (d *download) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	d.mu.Lock()
	for d.read == d.written && d.err == nil {
		d.grown.Wait()
	}
	left, err := d.written-d.read, d.err
	d.mu.Unlock()
	if left == 0 {
		return 0, err
	}
	n, err := d.f.ReadAt(p[:min(left, int64(len(p)))], d.read)
	d.read += int64(n)
	if n > 0 {
		err = nil
	} else if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // someone truncated the file
	}
	return n, err
}
