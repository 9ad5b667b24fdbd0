package tarstream

import (
	"fmt"
	"strconv"
	"strings"
)

// oldSparseMap reads the GNU 'S' format: four pairs in the header block, 21 in
// each block that follows while "isextended" is set.
func (r *Reader) oldSparseMap(h *Header) error {
	size, ok := parseNumber(r.blk[offGNURealSize : offGNURealSize+12])
	if !ok || size < 0 {
		return fmt.Errorf("real size of sparse %q: %w", h.Name, ErrHeader)
	}
	h.Size = size
	block := r.blk
	pairs, extended := block[offGNUSparse:offGNUSparse+4*24], block[offGNUExtended] != 0
	for {
		for ; len(pairs) >= 24; pairs = pairs[24:] {
			if pairs[0] == 0 || pairs[12] == 0 {
				break // unused slots end the list
			}
			off, ok1 := parseNumber(pairs[:12])
			n, ok2 := parseNumber(pairs[12:24])
			if !ok1 || !ok2 {
				return fmt.Errorf("map of sparse %q: %w", h.Name, ErrHeader)
			}
			if err := addSegment(h, off, n); err != nil {
				return err
			}
		}
		if !extended {
			return nil
		}
		// Extension blocks are not counted in the stored size.
		if err := r.readFull(block[:]); err != nil {
			return unexpected(err)
		}
		pairs, extended = block[:21*24], block[504] != 0
		if len(h.Segments) > maxSegments {
			return fmt.Errorf("map of sparse %q: %w", h.Name, ErrLimit)
		}
	}
}

// paxSparseMap reads the PAX formats 0.0, 0.1 (map in records) and 1.0 (map in
// front of the data, counted in the stored size).
func (r *Reader) paxSparseMap(h *Header) error {
	v := r.pax.values
	bad := func(what string) error { return fmt.Errorf("%s of sparse %q: %w", what, h.Name, ErrHeader) }
	size := v["GNU.sparse.realsize"]
	if size == "" {
		size = v["GNU.sparse.size"]
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return bad("real size")
	}
	h.Size = n
	major, minor := v["GNU.sparse.major"], v["GNU.sparse.minor"]
	switch {
	case major == "1" && minor == "0":
		return r.leadingSparseMap(h)
	case major != "" && major != "0":
		return bad("version " + major + "." + minor)
	}
	pairs := r.pax.pairs
	if m := v["GNU.sparse.map"]; m != "" {
		pairs = strings.Split(m, ",")
	}
	if len(pairs)%2 != 0 {
		return bad("map")
	}
	for i := 0; i < len(pairs); i += 2 {
		off, err1 := strconv.ParseInt(pairs[i], 10, 64)
		n, err2 := strconv.ParseInt(pairs[i+1], 10, 64)
		if err1 != nil || err2 != nil {
			return bad("map")
		}
		if err := addSegment(h, off, n); err != nil {
			return err
		}
	}
	return nil
}

// leadingSparseMap reads decimal numbers, each ended by a newline: how many
// pairs, then the pairs, then padding to a block.
func (r *Reader) leadingSparseMap(h *Header) error {
	bad := fmt.Errorf("map of sparse %q: %w", h.Name, ErrHeader)
	var blk []byte
	var store [blockSize]byte
	number := func() (int64, error) {
		var v int64
		for digits := 0; ; digits++ {
			if len(blk) == 0 {
				if r.left < blockSize {
					return 0, bad
				}
				if err := r.readFull(store[:]); err != nil {
					return 0, unexpected(err)
				}
				r.left -= blockSize
				blk = store[:]
			}
			c := blk[0]
			blk = blk[1:]
			if c == '\n' && digits > 0 {
				return v, nil
			}
			if c < '0' || c > '9' || digits >= 18 {
				return 0, bad
			}
			v = v*10 + int64(c-'0')
		}
	}
	n, err := number()
	if err != nil {
		return err
	}
	if n > maxSegments {
		return fmt.Errorf("map of sparse %q: %w", h.Name, ErrLimit)
	}
	for range n {
		off, err := number()
		if err != nil {
			return err
		}
		length, err := number()
		if err != nil {
			return err
		}
		if err := addSegment(h, off, length); err != nil {
			return err
		}
	}
	return nil
}

// addSegment appends a pair; empty ones only mark the end of the file.
func addSegment(h *Header, off, n int64) error {
	if len(h.Segments) >= maxSegments {
		return fmt.Errorf("map of sparse %q: %w", h.Name, ErrLimit)
	}
	if off < 0 || n < 0 || off > h.Size || n > h.Size-off {
		return fmt.Errorf("map of sparse %q: %w", h.Name, ErrHeader)
	}
	if n > 0 {
		h.Segments = append(h.Segments, Segment{off, n})
	}
	return nil
}

// checkSegments verifies the promise of Header.Segments and that the data in
// the archive is what the map says.
func checkSegments(h *Header, stored int64) error {
	var end, sum int64
	for _, s := range h.Segments {
		if s.Offset < end {
			return fmt.Errorf("map of sparse %q overlaps: %w", h.Name, ErrHeader)
		}
		end = s.Offset + s.Length
		sum += s.Length
	}
	if sum != stored {
		return fmt.Errorf("sparse %q has %d bytes for a map of %d: %w", h.Name, stored, sum, ErrHeader)
	}
	h.Stored = stored
	return nil
}
