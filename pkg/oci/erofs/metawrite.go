package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// The metadata file of a layer is a log of entries in archive order:
//
//	"blerofs1"
//	'/' path                          directory of the records that follow
//	kind base perm uid gid sec nsec xattrs  then, by kind:
//	    f  size 0 | size 1 bytes | size 2 block | size 3 block bits n (skip count)*
//	    l  target      h  target (no metadata)      c b  rdev
//	'w' base / 'o'                    whiteout, opaque
//	'E' entries blocks tarBytes dropped diffID(32)
//	crc32c of everything before (4 bytes)
//
// Numbers are unsigned varints (seconds zigzag), strings have a length in
// front. The version is in the magic; a change of anything that changes an
// index's bytes must change it, because indexes and metadata are cached.
const metaMagic = "blerofs1"

const (
	storedNone   = 0
	storedInline = 1
	storedBlob   = 2
	storedSparse = 3
)

// metaWriter writes a layer's metadata sequentially.
type metaWriter struct {
	w       io.Writer
	buf     []byte
	dir     string
	haveDir bool
	crc     uint32
	size    int64
	entries int
	err     error
}

func newMetaWriter(w io.Writer) *metaWriter {
	return &metaWriter{w: w, buf: append(make([]byte, 0, 64<<10), metaMagic...)}
}

func (m *metaWriter) flush() {
	if m.err != nil || len(m.buf) == 0 {
		return
	}
	m.crc = crc32.Update(m.crc, castagnoli, m.buf)
	m.size += int64(len(m.buf))
	if _, err := m.w.Write(m.buf); err != nil {
		m.err = fmt.Errorf("erofs: writing layer metadata: %w", err)
	}
	m.buf = m.buf[:0]
}

func (m *metaWriter) uint(v uint64) { m.buf = binary.AppendUvarint(m.buf, v) }

func (m *metaWriter) string(s string) {
	m.uint(uint64(len(s)))
	m.buf = append(m.buf, s...)
}

// add appends one entry.
func (m *metaWriter) add(e *entry) error {
	if !m.haveDir || e.dir != m.dir {
		m.buf = append(m.buf, byte(recordDir))
		m.string(e.dir)
		m.dir, m.haveDir = e.dir, true
	}
	m.entries++
	m.buf = append(m.buf, byte(e.kind))
	switch e.kind {
	case kindOpaque:
	case kindWhiteout:
		m.string(e.base)
	case kindLink:
		m.string(e.base)
		m.string(e.target)
	default:
		m.string(e.base)
		m.uint(uint64(e.perm))
		m.uint(uint64(e.uid))
		m.uint(uint64(e.gid))
		m.buf = binary.AppendVarint(m.buf, e.sec)
		m.uint(uint64(e.nsec))
		m.string(e.xattrs)
		m.content(e)
	}
	if len(m.buf) >= 48<<10 {
		m.flush()
	}
	return m.err
}

// content appends what only one kind has.
func (m *metaWriter) content(e *entry) {
	switch e.kind {
	case kindSymlink:
		m.string(e.target)
	case kindChar, kindBlock:
		m.uint(uint64(e.rdev))
	case kindReg:
		m.uint(e.size)
		switch {
		case e.sparse != nil:
			m.uint(storedSparse)
			m.uint(uint64(e.block))
			m.uint(uint64(e.sparse.bits))
			m.uint(uint64(len(e.sparse.runs)))
			for _, r := range e.sparse.runs {
				m.uint(uint64(r.skip))
				m.uint(uint64(r.count))
			}
		case e.size == 0:
			m.uint(storedNone)
		case e.inline != "":
			m.uint(storedInline)
			m.string(e.inline)
		default:
			m.uint(storedBlob)
			m.uint(uint64(e.block))
		}
	}
}

// end writes the trailer.
func (m *metaWriter) end(info *LayerInfo, diffID []byte) error {
	m.buf = append(m.buf, byte(recordEnd))
	m.uint(uint64(info.Entries))
	m.uint(uint64(info.BlobSize / BlockSize))
	m.uint(uint64(info.TarBytes))
	m.uint(uint64(info.DroppedXattrs))
	m.buf = append(m.buf, diffID...)
	m.flush()
	m.buf = le.AppendUint32(m.buf, m.crc)
	m.flush()
	info.MetaSize = m.size
	return m.err
}
