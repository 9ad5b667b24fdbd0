// Package tarstream reads OCI layer tars: ustar, GNU and PAX archives as one
// forward pass over a stream.
//
// It exists beside archive/tar because a layer converter needs what that
// package hides: the map of a sparse file (a 1 TiB hole must cost nothing),
// the bytes of a member without a copy, the digest of everything that passed,
// padding and trailing bytes included, and limits that hold before memory is
// spent. Where both can read an archive they agree; the tests compare them.
//
// Global PAX headers (typeflag g) are skipped, not applied to later members:
// docker, containerd, umoci and archive/tar all do the same.
package tarstream

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
)

const (
	blockSize = 512

	// maxSpecial bounds one PAX header or GNU long name (archive/tar has the
	// same bound).
	maxSpecial = 1 << 20

	// maxSegments bounds the map of one sparse file.
	maxSegments = 1 << 20

	bufferSize = 256 << 10
)

// Types of a member, as in the typeflag byte (POSIX.1-2017 pax, "ustar
// Interchange Format").
const (
	TypeReg     = '0'
	TypeLink    = '1'
	TypeSymlink = '2'
	TypeChar    = '3'
	TypeBlock   = '4'
	TypeDir     = '5'
	TypeFifo    = '6'
	typeCont    = '7'

	typePAX       = 'x'
	typePAXGlobal = 'g'
	typeGNULong   = 'L'
	typeGNULink   = 'K'
	typeGNUSparse = 'S'
)

// ErrHeader is the error of an archive that is not a well-formed tar.
var ErrHeader = errors.New("not a well-formed tar archive")

// ErrLimit is the error of a stream that exceeds a limit of the reader.
var ErrLimit = errors.New("limit exceeded")

// Xattr is one extended attribute, from a SCHILY.xattr PAX record.
type Xattr struct{ Name, Value string }

// Segment is a stretch of a sparse file that has data: Length bytes at Offset
// of the expanded file.
type Segment struct{ Offset, Length int64 }

// Header describes one member. Numbers are as the archive has them; the
// caller judges their range.
type Header struct {
	Type     byte
	Name     string
	Linkname string
	Mode     int64
	UID, GID int64
	Size     int64 // of the expanded file, bytes
	Stored   int64 // bytes in the archive
	Seconds  int64 // modification time since 1970
	Nanos    uint32
	Major    int64
	Minor    int64
	Xattrs   []Xattr // in archive order, one per name, the last one's value
	Sparse   bool
	Segments []Segment // sorted, disjoint, inside Size; only if Sparse
}

// Reader reads one archive. It is for one goroutine.
type Reader struct {
	src   io.Reader
	sum   hash.Hash
	check func(total int64) error

	buf   []byte
	r, w  int
	total int64 // bytes read from src
	err   error // sticky error of src

	left   int64 // stored bytes of the current member not yet taken
	pad    int64 // padding behind them
	done   bool
	hdr    Header
	blk    [blockSize]byte
	pax    paxRecords
	failed error
}

// NewReader returns a reader of src. Every byte read from src is written to
// sum. check is called with the number of bytes read so far after every read
// from src, and an error of it ends the stream; nil means no limit.
func NewReader(src io.Reader, sum hash.Hash, check func(total int64) error) *Reader {
	return &Reader{src: src, sum: sum, check: check, buf: make([]byte, bufferSize)}
}

// Total returns the number of bytes read from the stream so far.
func (r *Reader) Total() int64 { return r.total }

// fill reads more bytes into an empty buffer.
func (r *Reader) fill() error {
	if r.err != nil {
		return r.err
	}
	r.r, r.w = 0, 0
	for spins := 0; r.w == 0; spins++ {
		n, err := r.src.Read(r.buf)
		if n < 0 || n > len(r.buf) {
			return errors.New("reader returned an impossible count")
		}
		r.w = n
		r.total += int64(n)
		r.sum.Write(r.buf[:n])
		if err == nil && n == 0 && spins > 100 {
			err = io.ErrNoProgress
		}
		if err == nil && r.check != nil {
			err = r.check(r.total)
		}
		if err != nil {
			r.err = err
			// Bytes that came with io.EOF still count; bytes that came with
			// any other error do not.
			if n > 0 && err == io.EOF {
				return nil
			}
			r.w = 0
			return err
		}
	}
	return nil
}

// take returns the next up to max bytes, at least one. The slice is valid
// until the next call.
func (r *Reader) take(max int64) ([]byte, error) {
	if r.r == r.w {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	n := min(max, int64(r.w-r.r))
	b := r.buf[r.r : r.r+int(n)]
	r.r += int(n)
	return b, nil
}

// readFull fills dst. It returns io.EOF if the stream ends before the first
// byte and io.ErrUnexpectedEOF if it ends inside.
func (r *Reader) readFull(dst []byte) error {
	for n := 0; n < len(dst); {
		b, err := r.take(int64(len(dst) - n))
		if err != nil {
			if err == io.EOF && n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		n += copy(dst[n:], b)
	}
	return nil
}

// skip drops n bytes.
func (r *Reader) skip(n int64) error {
	for n > 0 {
		b, err := r.take(n)
		if err != nil {
			return unexpected(err)
		}
		n -= int64(len(b))
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Data hands the stored bytes of the current member to f, in order and in
// pieces that are valid only during the call. It may be called once for a
// member; what it is not called for is skipped by Next.
func (r *Reader) Data(f func([]byte) error) error {
	for r.left > 0 {
		b, err := r.take(r.left)
		if err != nil {
			return unexpected(err)
		}
		r.left -= int64(len(b))
		if err := f(b); err != nil {
			return err
		}
	}
	return nil
}

// Drain reads the stream to its end, so that the digest covers all of it.
func (r *Reader) Drain() error {
	for {
		if _, err := r.take(bufferSize); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// Next advances to the next member. The header and everything it points to
// except strings is valid until the next call. At the end of the archive it
// returns io.EOF; bytes behind the end are left for Drain.
func (r *Reader) Next() (*Header, error) {
	if r.failed != nil {
		return nil, r.failed
	}
	h, err := r.next()
	if err != nil {
		r.failed = err
		return nil, err
	}
	return h, nil
}

func (r *Reader) next() (*Header, error) {
	if r.done {
		return nil, io.EOF
	}
	if err := r.skip(r.left + r.pad); err != nil {
		return nil, err
	}
	r.left, r.pad = 0, 0
	r.pax.reset()
	longName, longLink := "", ""
	for {
		if err := r.readFull(r.blk[:]); err != nil {
			if err == io.EOF { // no end-of-archive marker: accepted, as by archive/tar
				r.done = true
			}
			return nil, err
		}
		if r.blk == ([blockSize]byte{}) {
			return nil, r.endMarker()
		}
		h := &r.hdr
		*h = Header{Segments: h.Segments[:0], Xattrs: h.Xattrs[:0]}
		if err := parseHeader(&r.blk, h); err != nil {
			return nil, err
		}
		switch h.Type {
		case typePAX, typePAXGlobal, typeGNULong, typeGNULink:
			if h.Stored > maxSpecial {
				return nil, fmt.Errorf("header member of %d bytes: %w", h.Stored, ErrLimit)
			}
			body := make([]byte, h.Stored)
			if err := r.readFull(body); err != nil {
				return nil, unexpected(err)
			}
			if err := r.skip(padding(h.Stored)); err != nil {
				return nil, err
			}
			switch h.Type {
			case typePAX:
				if err := r.pax.parse(body); err != nil {
					return nil, err
				}
			case typePAXGlobal:
			case typeGNULong:
				longName = cString(body)
			case typeGNULink:
				longLink = cString(body)
			}
			continue
		}
		if longName != "" {
			h.Name = longName
		}
		if longLink != "" {
			h.Linkname = longLink
		}
		if err := r.finish(h); err != nil {
			return nil, err
		}
		return h, nil
	}
}

// endMarker handles a zero block: a second one ends the archive.
func (r *Reader) endMarker() error {
	err := r.readFull(r.blk[:])
	if err != nil && err != io.EOF {
		return err
	}
	if err == nil && r.blk != ([blockSize]byte{}) {
		return fmt.Errorf("one zero block inside the archive: %w", ErrHeader)
	}
	r.done = true
	return io.EOF
}

// finish applies the PAX records, reads the map of a sparse file and sets the
// amount of data that follows.
func (r *Reader) finish(h *Header) error {
	if err := r.pax.apply(h); err != nil {
		return err
	}
	old := h.Type == typeGNUSparse
	switch h.Type {
	case 0, typeCont:
		h.Type = TypeReg
	case typeGNUSparse:
		h.Type = TypeReg
		h.Sparse = true
	}
	if h.Type == TypeReg && !h.Sparse && len(h.Name) > 0 && h.Name[len(h.Name)-1] == '/' {
		h.Type = TypeDir // pre-POSIX directories (archive/tar does the same)
	}
	if h.Type != TypeReg {
		// Links may carry the size of their target; no data follows
		// (POSIX: size is "unspecified" or zero for them).
		h.Size, h.Stored = 0, 0
	}
	r.left, r.pad = h.Stored, padding(h.Stored)
	if !h.Sparse && !r.pax.sparse() || h.Type != TypeReg {
		h.Sparse = false
		return nil
	}
	h.Sparse = true
	var err error
	if old {
		err = r.oldSparseMap(h)
	} else {
		err = r.paxSparseMap(h)
	}
	if err != nil {
		return err
	}
	return checkSegments(h, r.left)
}

// padding returns the number of bytes between n and the next block.
func padding(n int64) int64 { return -n & (blockSize - 1) }

// cString returns b up to its first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
