//go:build !linux

package blk

import (
	"errors"
	"io"
	"os"
)

// read fills the next n bytes from an offset of a file and moves on.
func (c *cursor) read(f *os.File, n int, off int64) error {
	for n > 0 {
		b := c.next(n)
		if _, err := f.ReadAt(b, off); errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return bare(err)
		}
		c.advance(len(b))
		n -= len(b)
		off += int64(len(b))
	}
	return nil
}

// write stores the next n bytes at an offset of a file and moves on.
func (c *cursor) write(f *os.File, n int, off int64) error {
	for n > 0 {
		b := c.next(n)
		if _, err := f.WriteAt(b, off); err != nil {
			return bare(err)
		}
		c.advance(len(b))
		n -= len(b)
		off += int64(len(b))
	}
	return nil
}
