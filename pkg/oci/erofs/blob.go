package erofs

import (
	"bufio"
	"fmt"
	"io"
)

// blobWriter writes file contents one after the other, each padded with zeros
// to a block: what lies between a file's end and its block's end is visible
// to whoever maps the file.
type blobWriter struct {
	w    *bufio.Writer
	size int64
	max  int64
}

func newBlobWriter(w io.Writer, max int64) *blobWriter {
	return &blobWriter{w: bufio.NewWriterSize(w, 256<<10), max: max}
}

var zeros [64 << 10]byte

// begin returns the block that the next file starts on. Block addresses have
// 32 bits and the last one means a hole.
func (b *blobWriter) begin() (uint32, error) {
	n := b.size >> blockBits
	if n >= nullAddr {
		return 0, fmt.Errorf("blob of %d bytes: %w", b.size, ErrLimit)
	}
	return uint32(n), nil
}

func (b *blobWriter) write(p []byte) error {
	if int64(len(p)) > b.max-b.size {
		return fmt.Errorf("blob of more than %d bytes: %w", b.max, ErrLimit)
	}
	n, err := b.w.Write(p)
	b.size += int64(n)
	if err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	return nil
}

// zero writes n zero bytes.
func (b *blobWriter) zero(n int64) error {
	if n > b.max-b.size {
		return fmt.Errorf("blob of more than %d bytes: %w", b.max, ErrLimit)
	}
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if err := b.write(zeros[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// pad completes the current block.
func (b *blobWriter) pad() error { return b.zero(-b.size & (BlockSize - 1)) }

func (b *blobWriter) flush() error {
	if err := b.w.Flush(); err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	return nil
}
