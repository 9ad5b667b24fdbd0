package tarfs

import (
	"io"
	"strconv"
	"strings"
)

// Reader takes a tar stream apart.
type Reader struct {
	r          io.Reader
	buf        []byte
	start, end int
	left       int64 // of the entry's content
	pad        int
	some       bool // something came
}

// NewReader returns a Reader of r, which is read up to 64 KiB at a time.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, buf: make([]byte, bufSize)} }

// Next skips what is left of an entry and returns the next one's header, or
// io.EOF behind the last. Errors are those of the stream, or an agentapi.Error
// of CodeArchive.
func (t *Reader) Next() (*Header, error) {
	if err := t.skip(); err != nil {
		return nil, err
	}
	var ext extended
	for first := true; ; first = false {
		b, err := t.block()
		if err == io.EOF && !first || err == io.ErrUnexpectedEOF {
			return nil, damaged("the archive is cut short")
		}
		if err != nil {
			return nil, err // the end of the stream ends an archive as well
		}
		if isZero(b) {
			if !first {
				return nil, damaged("an extended header is followed by nothing")
			}
			return nil, io.EOF
		}
		h, err := parseBlock(b)
		if err != nil {
			return nil, err
		}
		switch h.Type {
		case typePax, typePaxGlobal, typeGNUName, typeGNULink:
			content, err := t.extended(h.Size)
			if err != nil {
				return nil, err
			}
			if err := ext.add(h.Type, content); err != nil {
				return nil, err
			}
			continue
		}
		if err := ext.apply(h); err != nil {
			return nil, err
		}
		if h, err = normal(h); err != nil {
			return nil, err
		}
		t.left, t.pad = h.Size, padding(h.Size)
		return h, nil
	}
}

// Chunk returns some of the entry's content, valid until the next call, or
// io.EOF at its end.
func (t *Reader) Chunk() ([]byte, error) {
	if t.left == 0 {
		return nil, io.EOF
	}
	if t.start == t.end {
		if err := t.fill(); err == io.EOF {
			return nil, damaged("the archive is cut short")
		} else if err != nil {
			return nil, err
		}
	}
	n := int(min(int64(t.end-t.start), t.left))
	p := t.buf[t.start : t.start+n]
	t.start += n
	t.left -= int64(n)
	return p, nil
}

// Drain reads the stream to its end, as its sender expects.
func (t *Reader) Drain() error {
	for {
		t.start, t.end = 0, 0
		if err := t.fill(); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

func (t *Reader) skip() error {
	for t.left > 0 {
		if _, err := t.Chunk(); err != nil {
			return err
		}
	}
	t.left, t.pad = int64(t.pad), 0
	for t.left > 0 {
		if _, err := t.Chunk(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads more behind what is buffered.
func (t *Reader) fill() error {
	if t.start == t.end {
		t.start, t.end = 0, 0
	}
	for range 100 { // as io.ErrNoProgress everywhere
		n, err := t.r.Read(t.buf[t.end:])
		t.end += n
		if n > 0 {
			t.some = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// block returns the next header block, valid until the next read. At the end of
// the stream it returns io.EOF, within a block io.ErrUnexpectedEOF.
func (t *Reader) block() ([]byte, error) {
	for t.end-t.start < blockSize {
		if len(t.buf)-t.start < blockSize {
			t.end = copy(t.buf, t.buf[t.start:t.end])
			t.start = 0
		}
		err := t.fill()
		if err == io.EOF && t.end > t.start {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	b := t.buf[t.start : t.start+blockSize]
	t.start += blockSize
	return b, nil
}

// extended reads the content of an extended header. Memory grows with what
// arrives.
func (t *Reader) extended(size int64) (string, error) {
	if size > maxExtended {
		return "", damaged("an extended header of " + utoa(uint64(size)) + " bytes")
	}
	t.left, t.pad = size, padding(size)
	var s strings.Builder
	for {
		p, err := t.Chunk()
		if err == io.EOF {
			return s.String(), t.skip()
		}
		if err != nil {
			return "", err
		}
		s.Write(p)
	}
}

func isZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

func parseBlock(b []byte) (*Header, error) {
	sum, ok := number(fChecksum.of(b))
	if !ok || sum != checksum(b) {
		return nil, damaged("this is no tar archive, or it is damaged: a header's checksum is wrong")
	}
	h := &Header{Name: text(fName.of(b)), Link: text(fLink.of(b)), Type: b[typeAt]}
	var bad bool
	num := func(f field, limit int64) int64 {
		v, ok := number(f.of(b))
		bad = bad || !ok || v < 0 || v > limit
		return v
	}
	h.Mode = uint32(num(fMode, 1<<62) & 0o7777)
	h.UID, h.GID = uint32(num(fUID, 1<<32-1)), uint32(num(fGID, 1<<32-1))
	h.Size = num(fSize, 1<<62)
	h.Sec, ok = number(fTime.of(b))
	bad = bad || !ok
	if string(fMagic.of(b)[:5]) == "ustar" {
		h.Major, h.Minor = uint32(num(fMajor, 1<<32-1)), uint32(num(fMinor, 1<<32-1))
		if prefix := text(fPrefix.of(b)); prefix != "" && string(fMagic.of(b)) == magicUSTAR {
			h.Name = prefix + "/" + h.Name
		}
	}
	if bad {
		return nil, damaged("a number in the header of " + strconv.Quote(h.Name))
	}
	return h, nil
}

// text reads a field up to its first NUL.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// number reads octal digits with spaces or NULs around them, or GNU's base 256,
// which has the highest bit set.
func number(b []byte) (v int64, ok bool) {
	if b[0]&0x80 != 0 {
		negative := b[0]&0x40 != 0
		u := uint64(b[0] & 0x3f)
		if negative {
			u |= ^uint64(0x3f)
		}
		for _, c := range b[1:] {
			if top := int64(u) >> 55; top != 0 && top != -1 {
				return 0, false
			}
			u = u<<8 | uint64(c)
		}
		return int64(u), true
	}
	s := strings.Trim(text(b), " ")
	if s == "" {
		return 0, true
	}
	u, err := strconv.ParseUint(s, 8, 63)
	return int64(u), err == nil
}

// normal checks a header and gives it one of the types we know.
func normal(h *Header) (*Header, error) {
	quoted := strconv.Quote(h.Name)
	switch h.Type {
	case 0, typeCont, TypeReg:
		h.Type = TypeReg
		if strings.HasSuffix(h.Name, "/") { // how archives of 1979 say it
			h.Type = TypeDir
		}
	case TypeLink, TypeSymlink, TypeChar, TypeBlock, TypeDir, TypeFIFO:
	case typeGNUSparse:
		return nil, damaged(quoted + " is stored sparse, which is not supported: make the archive without --sparse")
	default:
		return nil, damaged(quoted + " is of unknown type " + strconv.Quote(string(rune(h.Type))))
	}
	if h.Type != TypeReg {
		// Some write a hard link's size, though no content follows.
		h.Size = 0
	}
	for _, s := range []string{h.Name, h.Link} {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, damaged(quoted + ": a NUL in a name")
		}
	}
	return h, nil
}
