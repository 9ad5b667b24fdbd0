package tarstream

import (
	"fmt"
	"strings"
)

// Field offsets of a header block (POSIX.1-2017 pax; the GNU and star layouts
// share everything up to 345).
const (
	offName     = 0
	offMode     = 100
	offUID      = 108
	offGID      = 116
	offSize     = 124
	offMtime    = 136
	offChecksum = 148
	offType     = 156
	offLink     = 157
	offMagic    = 257
	offMajor    = 329
	offMinor    = 337
	offPrefix   = 345

	offGNUSparse   = 386 // four pairs of offset and length, 12 digits each
	offGNUExtended = 482
	offGNURealSize = 483

	offStarTrailer = 508
)

// parseHeader decodes one header block; PAX records and long names are applied
// by the caller.
func parseHeader(b *[blockSize]byte, h *Header) error {
	if err := verifyChecksum(b); err != nil {
		return err
	}
	p := fieldParser{block: b}
	h.Type = b[offType]
	h.Name = cString(b[offName : offName+100])
	h.Linkname = cString(b[offLink : offLink+100])
	h.Mode = p.number("mode", offMode, 8)
	h.UID = p.number("uid", offUID, 8)
	h.GID = p.number("gid", offGID, 8)
	h.Stored = p.number("size", offSize, 12)
	h.Seconds = p.number("mtime", offMtime, 12)
	h.Size = h.Stored

	magic := string(b[offMagic : offMagic+8])
	if strings.HasPrefix(magic, "ustar") {
		h.Major = p.number("devmajor", offMajor, 8)
		h.Minor = p.number("devminor", offMinor, 8)
		prefix := ""
		switch {
		case magic == "ustar  \x00": // GNU: the prefix field has other uses
		case string(b[offStarTrailer:]) == "tar\x00": // star: shorter prefix
			prefix = cString(b[offPrefix : offPrefix+131])
		default:
			prefix = cString(b[offPrefix : offPrefix+155])
		}
		if prefix != "" {
			h.Name = prefix + "/" + h.Name
		}
	}
	if p.err != nil {
		return p.err
	}
	if h.Stored < 0 {
		return fmt.Errorf("size %d of %q: %w", h.Stored, h.Name, ErrHeader)
	}
	return nil
}

// verifyChecksum accepts the sum over unsigned bytes and, as every reader
// does, the historical one over signed bytes.
func verifyChecksum(b *[blockSize]byte) error {
	p := fieldParser{block: b}
	want := p.number("checksum", offChecksum, 8)
	var unsigned, signed int64
	for i, c := range b {
		if i >= offChecksum && i < offChecksum+8 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	if p.err != nil || want != unsigned && want != signed {
		return fmt.Errorf("header checksum: %w", ErrHeader)
	}
	return nil
}

// fieldParser decodes numeric fields and keeps the first error.
type fieldParser struct {
	block *[blockSize]byte
	err   error
}

func (p *fieldParser) number(what string, off, n int) int64 {
	v, ok := parseNumber(p.block[off : off+n])
	if !ok && p.err == nil {
		p.err = fmt.Errorf("%s field %q: %w", what, p.block[off:off+n], ErrHeader)
	}
	return v
}

// parseNumber decodes octal digits between spaces and NULs, or the GNU
// base-256 form: a big-endian two's complement whose top bit is set.
func parseNumber(b []byte) (int64, bool) {
	if len(b) > 0 && b[0]&0x80 != 0 {
		var inv byte // 0xff for negative numbers, so that the loop sees a magnitude
		if b[0]&0x40 != 0 {
			inv = 0xff
		}
		var x uint64
		for i, c := range b {
			c ^= inv
			if i == 0 {
				c &= 0x7f
			}
			if x>>56 != 0 {
				return 0, false
			}
			x = x<<8 | uint64(c)
		}
		if x>>63 != 0 {
			return 0, false
		}
		if inv != 0 {
			return ^int64(x), true
		}
		return int64(x), true
	}
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == 0) {
		i++
	}
	j := len(b)
	for j > i && (b[j-1] == ' ' || b[j-1] == 0) {
		j--
	}
	var x int64
	for _, c := range b[i:j] {
		if c == 0 { // digits end at the first NUL
			break
		}
		if c < '0' || c > '7' || x>>59 != 0 {
			return 0, false
		}
		x = x<<3 | int64(c-'0')
	}
	return x, true
}
