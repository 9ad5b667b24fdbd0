package tarfs

import (
	"io"
	"strings"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// Writer makes a tar stream. The first error of the stream stays.
type Writer struct {
	w    io.Writer
	buf  []byte
	n    int   // bytes in buf
	left int64 // of the entry's content
	pad  int   // behind the content
	err  error
}

// NewWriter returns a Writer to w, which gets up to 64 KiB at a time.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, buf: make([]byte, bufSize)} }

// Next begins an entry. What its predecessor lacks of its size is filled with
// zeros.
func (t *Writer) Next(h *Header) error {
	t.finish()
	var pax []byte
	if x := paxRecords(h); x != "" {
		ext := Header{Name: "PaxHeaders.0/entry", Mode: 0o644, Size: int64(len(x)), Type: typePax}
		pax = t.block(&ext)
		pax = append(pax, x...)
		pax = append(pax, make([]byte, padding(int64(len(x))))...)
	}
	t.put(pax)
	t.put(t.block(h))
	if h.Type == TypeReg {
		t.left, t.pad = h.Size, padding(h.Size)
	}
	return t.err
}

// Write adds content to the entry, of which no more than its size is taken.
func (t *Writer) Write(p []byte) (int, error) {
	n := int(min(int64(len(p)), t.left))
	t.left -= int64(n)
	t.put(p[:n])
	if t.err == nil && n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, t.err
}

// Close ends the archive and sends what is buffered.
func (t *Writer) Close() error {
	t.finish()
	t.zeros(2 * blockSize)
	t.flush()
	return t.err
}

func padding(size int64) int { return int(-size & (blockSize - 1)) }

func (t *Writer) finish() {
	t.zeros(t.left + int64(t.pad))
	t.left, t.pad = 0, 0
}

func (t *Writer) zeros(n int64) {
	var zero [blockSize]byte
	for n > 0 && t.err == nil {
		k := min(n, blockSize)
		t.put(zero[:k])
		n -= k
	}
}

func (t *Writer) put(p []byte) {
	for len(p) > 0 && t.err == nil {
		n := copy(t.buf[t.n:], p)
		t.n += n
		p = p[n:]
		if t.n == len(t.buf) {
			t.flush()
		}
	}
}

func (t *Writer) flush() {
	if t.err == nil && t.n > 0 {
		_, t.err = t.w.Write(t.buf[:t.n])
	}
	t.n = 0
}

// What fits the fields of a ustar header.
const (
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1
)

// block makes a header of what fits; the rest is in the pax records before it.
func (t *Writer) block(h *Header) []byte {
	b := make([]byte, blockSize, 2*blockSize)
	name := h.Name
	if h.Type == TypeDir {
		name += "/"
	}
	copy(fName.of(b), name)
	octal(fMode.of(b), uint64(h.Mode&0o7777))
	octal(fUID.of(b), uint64(h.UID))
	octal(fGID.of(b), uint64(h.GID))
	if h.Type == TypeReg || h.Type == typePax {
		octal(fSize.of(b), uint64(h.Size))
	} else {
		octal(fSize.of(b), 0)
	}
	octal(fTime.of(b), uint64(max(h.Sec, 0)))
	b[typeAt] = h.Type
	copy(fLink.of(b), h.Link)
	copy(fMagic.of(b), magicUSTAR)
	octal(fMajor.of(b), uint64(h.Major))
	octal(fMinor.of(b), uint64(h.Minor))
	sum := fChecksum.of(b)
	octal(sum[:7], uint64(checksum(b)))
	sum[7] = ' '
	return b
}

// octal writes digits and a NUL; of what is too large the low ones.
func octal(b []byte, v uint64) {
	for i := len(b) - 2; i >= 0; i-- {
		b[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// paxRecords returns what the header block cannot say.
func paxRecords(h *Header) string {
	var s strings.Builder
	name := h.Name
	if h.Type == TypeDir {
		name += "/"
	}
	if len(name) > fName.len {
		paxRecord(&s, "path", name)
	}
	if len(h.Link) > fLink.len {
		paxRecord(&s, "linkpath", h.Link)
	}
	if h.Type == TypeReg && h.Size > maxOctal11 {
		paxRecord(&s, "size", utoa(uint64(h.Size)))
	}
	if h.UID > maxOctal7 {
		paxRecord(&s, "uid", utoa(uint64(h.UID)))
	}
	if h.GID > maxOctal7 {
		paxRecord(&s, "gid", utoa(uint64(h.GID)))
	}
	if h.Nsec != 0 || h.Sec < 0 || h.Sec > maxOctal11 {
		paxRecord(&s, "mtime", paxTime(h.Sec, h.Nsec))
	}
	if h.Type == TypeReg && h.Sparse {
		paxRecord(&s, agentapi.PaxComment, agentapi.SparseComment)
	}
	for _, x := range h.Xattrs {
		paxRecord(&s, xattrPrefix+x.Name, x.Value)
	}
	return s.String()
}

// paxTime writes seconds with a fraction. Before 1970 both count down.
func paxTime(sec, nsec int64) string {
	sign := ""
	if sec < 0 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec--
			nsec = 1e9 - nsec
		}
	}
	frac := utoa(uint64(nsec) + 1e9)[1:]
	return sign + utoa(uint64(sec)) + "." + frac
}

// paxRecord appends "length key=value\n", where length counts itself.
func paxRecord(s *strings.Builder, key, value string) {
	n := len(key) + len(value) + 3 // space, equals sign, line feed
	size := n
	for {
		next := n + len(utoa(uint64(size)))
		if next == size {
			break
		}
		size = next
	}
	s.WriteString(utoa(uint64(size)) + " " + key + "=" + value + "\n")
}
