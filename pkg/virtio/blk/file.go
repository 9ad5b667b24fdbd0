package blk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
)

// ErrInUse is wrapped by the error of OpenFile for a disk that another VM, in
// this process or another, has open for writing, or has open while this one
// wants to write.
var ErrInUse = errors.New("in use by another VM")

// Options say how a disk image is opened.
type Options struct {
	ReadOnly bool
}

// File is a raw disk image: a regular file or a block device.
type File struct {
	f        *os.File
	size     int64
	readOnly bool
	// What the file system turned out not to do.
	noPunch, noZero atomic.Bool
}

// OpenFile opens a raw disk image and locks it until Close: one writer, or any
// number of readers. The lock belongs to the open file, not to the process, so
// that it also holds between two VMs of one process.
func OpenFile(path string, o Options) (_ *File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("blk: disk %s: %w", path, bare(err))
		}
	}()
	flag := os.O_RDWR
	if o.ReadOnly {
		flag = os.O_RDONLY
	}
	// A FIFO would block the open; it is refused below.
	f, err := os.OpenFile(path, flag|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	size, err := sizeOf(f)
	if err != nil {
		return nil, err
	}
	if err := lock(f, !o.ReadOnly); err != nil {
		return nil, err
	}
	return &File{f: f, size: size, readOnly: o.ReadOnly}, nil
}

// bare removes the path from an error that will be given it again.
func bare(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// sizeOf returns the size in bytes of what can be a disk.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return info.Size(), nil
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		return f.Seek(0, io.SeekEnd)
	}
	return 0, errors.New("neither a regular file nor a block device")
}

// Size implements [Backend].
func (b *File) Size() int64 { return b.size }

// ReadOnly implements [Backend].
func (b *File) ReadOnly() bool { return b.readOnly }

// ReadVec implements [Backend]. A file that was truncated meanwhile is an
// [io.ErrUnexpectedEOF].
func (b *File) ReadVec(v [][]byte, off int64) error {
	c := cursor{v: v}
	return c.read(b.f, c.left(), off)
}

// WriteVec implements [Backend].
func (b *File) WriteVec(v [][]byte, off int64) error {
	c := cursor{v: v}
	return c.write(b.f, c.left(), off)
}

// Flush implements [Backend].
func (b *File) Flush() error { return datasync(b.f) }

// Discard implements [Backend]. It is a hint: where files cannot have holes, it
// does nothing.
func (b *File) Discard(off, n int64) error {
	err := b.punch(off, n)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// WriteZeroes implements [Backend], by the cheapest means that the file system has.
func (b *File) WriteZeroes(off, n int64, unmap bool) error {
	if unmap {
		if err := b.punch(off, n); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if !b.noZero.Load() {
		err := zeroRange(b.f, off, n)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		b.noZero.Store(true)
	}
	for n > 0 {
		k := min(n, int64(len(zeroes)))
		if _, err := b.f.WriteAt(zeroes[:k], off); err != nil {
			return bare(err)
		}
		off += k
		n -= k
	}
	return nil
}

var zeroes [64 << 10]byte

func (b *File) punch(off, n int64) error {
	if b.noPunch.Load() {
		return errors.ErrUnsupported
	}
	err := punchHole(b.f, off, n)
	if errors.Is(err, errors.ErrUnsupported) {
		b.noPunch.Store(true)
	}
	return err
}

// Close implements [Backend].
func (b *File) Close() error { return b.f.Close() }
