package erofs

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
)

// metaReader decodes a layer's metadata. The file comes from our own cache,
// but it is checked as if it came from a stranger: a torn or altered file must
// end in an error, never in a wrong image.
type metaReader struct {
	s   string // all of it; entries alias it, so that names cost nothing
	pos int
	dir string
	ok  bool

	blocks  uint32 // of the blob, from the trailer
	entries int    // decoded so far
	total   int    // from the trailer
}

// readMeta loads at most max bytes and verifies magic, checksum and trailer.
func readMeta(r io.Reader, max int64) (*metaReader, LayerInfo, error) {
	var info LayerInfo
	raw, err := readAll(r, max)
	if err != nil {
		return nil, info, fmt.Errorf("reading layer metadata: %w", err)
	}
	if len(raw) < len(metaMagic)+4 || string(raw[:len(metaMagic)]) != metaMagic {
		return nil, info, fmt.Errorf("layer metadata has no %q: %w", metaMagic, ErrFormat)
	}
	body := raw[:len(raw)-4]
	if crc32.Checksum(body, castagnoli) != le.Uint32(raw[len(body):]) {
		return nil, info, fmt.Errorf("layer metadata has a wrong checksum: %w", ErrFormat)
	}
	m := &metaReader{s: string(body), pos: len(metaMagic), ok: true}
	// The numbers of the trailer are wanted before the entries.
	if err := m.trailer(&info); err != nil {
		return nil, info, err
	}
	info.MetaSize = int64(len(raw))
	return m, info, nil
}

// readAll is io.ReadAll with a limit and without growing when the size of a
// file can be asked for.
func readAll(r io.Reader, max int64) ([]byte, error) {
	var buf []byte
	if s, ok := r.(interface{ Len() int }); ok {
		buf = make([]byte, 0, min(int64(s.Len()), max)+1)
	} else if f, ok := r.(io.Seeker); ok {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil {
			end, err := f.Seek(0, io.SeekEnd)
			if err == nil {
				_, err = f.Seek(at, io.SeekStart)
			}
			if err != nil {
				return nil, err
			}
			buf = make([]byte, 0, min(end-at, max)+1)
		}
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > max {
			return nil, fmt.Errorf("more than %d bytes: %w", max, ErrLimit)
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// trailer finds the end record. Its place is not stored, so that the file can
// be written in one pass; a trailing copy of its length would be one more
// thing to trust. The entries are walked once, which also proves them whole.
func (m *metaReader) trailer(info *LayerInfo) error {
	start := *m
	var e entry
	for {
		more, err := m.next(&e)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	entries, blocks := m.uint(), m.uint()
	info.TarBytes = int64(m.uint())
	info.DroppedXattrs = int(m.uint())
	id := m.bytes(32)
	if !m.ok || m.pos != len(m.s) || entries != uint64(m.entries) || blocks >= nullAddr || info.TarBytes < 0 {
		return fmt.Errorf("layer metadata trailer: %w", ErrFormat)
	}
	info.DiffID = hex.EncodeToString([]byte(id))
	info.Entries = int(entries)
	info.BlobSize = int64(blocks) * BlockSize
	*m = start
	m.blocks, m.total = uint32(blocks), int(entries)
	return nil
}

func (m *metaReader) uint() uint64 {
	var v uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if m.pos >= len(m.s) {
			break
		}
		c := m.s[m.pos]
		m.pos++
		if shift == 63 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	m.ok = false
	return 0
}

func (m *metaReader) int() int64 {
	v := m.uint()
	return int64(v>>1) ^ -int64(v&1)
}

// limited decodes a number that may be at most max.
func (m *metaReader) limited(max uint64) uint64 {
	v := m.uint()
	if v > max {
		m.ok = false
		return 0
	}
	return v
}

func (m *metaReader) bytes(n uint64) string {
	if n > uint64(len(m.s)-m.pos) {
		m.ok = false
		return ""
	}
	s := m.s[m.pos : m.pos+int(n)]
	m.pos += int(n)
	return s
}

func (m *metaReader) string(max uint64) string { return m.bytes(m.limited(max)) }

// next decodes the next entry; more is false at the end record, behind which
// the trailer's numbers follow.
func (m *metaReader) next(e *entry) (more bool, err error) {
	for {
		if m.pos >= len(m.s) {
			return false, fmt.Errorf("layer metadata ends early: %w", ErrFormat)
		}
		k := kind(m.s[m.pos])
		m.pos++
		switch k {
		case recordEnd:
			return false, nil
		case recordDir:
			m.dir = m.string(maxPath)
			if !m.ok || !validPath(m.dir) {
				return false, m.bad()
			}
		default:
			*e = entry{kind: k, dir: m.dir}
			m.entry(e)
			m.entries++
			if !m.ok {
				return false, m.bad()
			}
			return true, nil
		}
	}
}

func (m *metaReader) bad() error {
	return fmt.Errorf("layer metadata record at %d: %w", m.pos, ErrFormat)
}

func (m *metaReader) entry(e *entry) {
	switch e.kind {
	case kindOpaque:
		return
	case kindWhiteout, kindLink:
		e.base = m.string(maxName)
		m.check(validName(e.base))
		if e.kind == kindLink {
			e.target = m.string(maxPath)
			m.check(e.target != "" && validPath(e.target))
		}
		return
	}
	m.check(e.kind.mode() != 0)
	e.base = m.string(maxName)
	m.check(validName(e.base) || e.base == "" && e.dir == "" && e.kind == kindDir)
	e.perm = uint16(m.limited(0o7777))
	e.uid = uint32(m.limited(1<<32 - 2))
	e.gid = uint32(m.limited(1<<32 - 2))
	e.sec = m.int()
	e.nsec = uint32(m.limited(999_999_999))
	e.xattrs = m.string(maxXattrBody)
	m.check(validXattrs(e.xattrs))
	switch e.kind {
	case kindSymlink:
		e.target = m.string(maxTarget)
		m.check(e.target != "")
	case kindChar, kindBlock:
		e.rdev = uint32(m.limited(1<<32 - 1))
	case kindReg:
		m.content(e)
	}
}

func (m *metaReader) check(ok bool) { m.ok = m.ok && ok }

func (m *metaReader) content(e *entry) {
	e.size = m.limited(1<<63 - 1)
	switch m.uint() {
	case storedNone:
		m.check(e.size == 0)
	case storedInline:
		e.inline = m.string(inlineMax)
		m.check(e.size == uint64(len(e.inline)) && e.size > 0)
	case storedBlob:
		e.block = uint32(m.limited(nullAddr - 1))
		m.check(e.size > 0 && e.size <= nullAddr*BlockSize)
	case storedSparse:
		m.chunks(e)
	default:
		m.ok = false
	}
}

func (m *metaReader) chunks(e *entry) {
	e.block = uint32(m.limited(nullAddr - 1))
	c := &chunkMap{bits: uint8(m.limited(maxChunkShift))}
	shift := blockBits + c.bits
	chunks := e.size >> shift
	if e.size&(1<<shift-1) != 0 {
		chunks++
	}
	n := m.limited(maxChunks)
	m.check(chunks <= maxChunks && n <= chunks && n <= uint64(len(m.s)-m.pos))
	if !m.ok {
		return
	}
	c.runs = make([]chunkRun, 0, n)
	for range n {
		r := chunkRun{uint32(m.limited(chunks)), uint32(m.limited(chunks))}
		m.check(r.count > 0 && uint64(r.skip)+uint64(r.count) <= chunks)
		if !m.ok {
			return
		}
		chunks -= uint64(r.skip) + uint64(r.count)
		c.runs = append(c.runs, r)
	}
	e.sparse = c
}

// validName tells whether s can be the name of a file.
func validName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] == 0 || s[i] == '/' {
			return false
		}
	}
	return true
}

// validPath tells whether s is "" or a clean relative path.
func validPath(s string) bool {
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '/' {
			continue
		}
		if s != "" && !validName(s[start:i]) {
			return false
		}
		start = i + 1
	}
	return true
}

// ReadLayerInfo returns what ConvertLayer returned when it wrote the metadata
// file r, and an error if the file is not whole.
func ReadLayerInfo(r io.Reader) (LayerInfo, error) {
	_, info, err := readMeta(r, MergeOptions{}.withDefaults().MaxMeta)
	if err != nil {
		return LayerInfo{}, fmt.Errorf("erofs: %w", err)
	}
	return info, nil
}
