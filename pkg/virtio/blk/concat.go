package blk

import (
	"errors"
	"fmt"
	"os"
)

// partAlign is what the parts of a [Joined] disk are padded to, in bytes: the
// block size of the file systems that address them.
const partAlign = 4096

// Part is one piece of a [Joined] disk.
type Part struct {
	File   *os.File
	Offset int64 // of the piece in the file
	Length int64 // bytes; what is missing to a multiple of 4096 reads as zero
}

// Joined is a read-only disk made of pieces of files, one after the other: one
// device for a file system whose index and data are in different files.
type Joined struct {
	parts []Part
	ends  []int64 // offset at which each part ends, padding included
}

// Concat joins parts to one disk. The files must not change; they belong to the
// disk and are closed with it, also when Concat fails. A file may occur in
// several parts.
func Concat(parts ...Part) (_ *Joined, err error) {
	j := &Joined{parts: parts, ends: make([]int64, len(parts))}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	end := int64(0)
	for i, p := range parts {
		if p.File == nil {
			return nil, fmt.Errorf("blk: part %d has no file", i)
		}
		size, err := sizeOf(p.File)
		if err != nil {
			return nil, fmt.Errorf("blk: part %d, %s: %w", i, p.File.Name(), bare(err))
		}
		if p.Offset < 0 || p.Length <= 0 || p.Length > size || p.Offset > size-p.Length {
			return nil, fmt.Errorf("blk: part %d, %s: %d bytes at %d of %d", i, p.File.Name(), p.Length, p.Offset, size)
		}
		padded := (p.Length + partAlign - 1) &^ (partAlign - 1)
		if end += padded; end < 0 || padded < 0 {
			return nil, fmt.Errorf("blk: part %d, %s: the disk becomes too large", i, p.File.Name())
		}
		j.ends[i] = end
	}
	return j, nil
}

// Size implements [Backend].
func (j *Joined) Size() int64 {
	if len(j.ends) == 0 {
		return 0
	}
	return j.ends[len(j.ends)-1]
}

// ReadOnly implements [Backend].
func (j *Joined) ReadOnly() bool { return true }

// ReadVec implements [Backend].
func (j *Joined) ReadVec(v [][]byte, off int64) error {
	c := cursor{v: v}
	n := int64(c.left())
	if off < 0 || n > j.Size()-off {
		return fmt.Errorf("blk: %d bytes at %d of %d", n, off, j.Size())
	}
	for i := j.find(off); n > 0; i++ {
		p := &j.parts[i]
		start := int64(0)
		if i > 0 {
			start = j.ends[i-1]
		}
		at := off - start // in the part
		here := min(n, j.ends[i]-off)
		real := min(here, max(0, p.Length-at))
		if err := c.read(p.File, int(real), p.Offset+at); err != nil {
			return fmt.Errorf("part %d, %s: %w", i, p.File.Name(), err)
		}
		c.zero(int(here - real))
		n -= here
		off += here
	}
	return nil
}

// find returns the part that holds an offset, by bisection.
func (j *Joined) find(off int64) int {
	lo, hi := 0, len(j.ends)
	for lo < hi {
		if mid := (lo + hi) / 2; j.ends[mid] <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// WriteVec implements [Backend].
func (j *Joined) WriteVec([][]byte, int64) error { return os.ErrPermission }

// Flush implements [Backend].
func (j *Joined) Flush() error { return nil }

// Discard implements [Backend].
func (j *Joined) Discard(int64, int64) error { return os.ErrPermission }

// WriteZeroes implements [Backend].
func (j *Joined) WriteZeroes(int64, int64, bool) error { return os.ErrPermission }

// Close implements [Backend].
func (j *Joined) Close() error {
	var errs []error
	closed := make(map[*os.File]bool)
	for _, p := range j.parts {
		if p.File != nil && !closed[p.File] {
			closed[p.File] = true
			errs = append(errs, p.File.Close())
		}
	}
	j.parts, j.ends = nil, nil
	return errors.Join(errs...)
}
