package erofs

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

const tarBlock = 512

// sparseFile writes a member in the PAX format 1.0 of GNU tar, the one that
// needs no knowledge of sparse files to be skipped: the map lies in front of the
// data (GNU tar manual, "Storing Sparse Files"). archive/tar reads it, but does
// not write it.
func (t *tarWriter) sparseFile(ctx context.Context, h *tar.Header, e *entry) error {
	segments := e.segments()
	var table strings.Builder
	fmt.Fprintf(&table, "%d\n", len(segments)+1)
	var stored int64
	for _, s := range segments {
		fmt.Fprintf(&table, "%d\n%d\n", s.Offset, s.Length)
		stored += s.Length
	}
	fmt.Fprintf(&table, "%d\n0\n", e.size) // tells extractors where the last hole ends
	front := padded(table.String())

	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
		"GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatUint(e.size, 10),
		"uid": strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid),
		"mtime": paxTime(e.sec, e.nsec), "size": strconv.FormatInt(int64(len(front))+stored, 10),
	}
	maps.Copy(records, h.PAXRecords)
	var pax strings.Builder
	for _, k := range slices.Sorted(maps.Keys(records)) {
		pax.WriteString(paxRecord(k, records[k]))
	}
	if err := t.tw.Flush(); err != nil {
		return err
	}
	// The numbers that do not fit a header are in the records.
	if _, err := io.WriteString(t.w, ustar("PaxHeaders.0/sparse", 'x', 0, int64(pax.Len()))+padded(pax.String())+
		ustar("GNUSparseFile.0/sparse", '0', h.Mode, (int64(len(front))+stored)&(1<<33-1))+front); err != nil {
		return err
	}
	at := int64(e.block) * BlockSize
	for _, s := range segments {
		if err := t.copy(ctx, t.w, at, s.Length); err != nil {
			return err
		}
		at += align(s.Length, BlockSize)
	}
	_, err := t.w.Write(zeros[:align(stored, tarBlock)-stored])
	return err
}

// segments are the stretches of a sparse file that its blob has.
func (e *entry) segments() []tarstream.Segment {
	var out []tarstream.Segment
	shift := blockBits + e.sparse.bits
	var at int64
	for _, r := range e.sparse.runs {
		at += int64(r.skip) << shift
		end := min(at+int64(r.count)<<shift, int64(e.size))
		if end > at { // what next accepts reaches behind the end by less than a chunk
			out = append(out, tarstream.Segment{Offset: at, Length: end - at})
		}
		at += int64(r.count) << shift
	}
	return out
}

// paxRecord is "LENGTH KEY=VALUE\n", where the length counts itself (pax(1),
// "Extended Header").
func paxRecord(key, value string) string {
	size := len(key) + len(value) + len(" =\n")
	n := size + len(strconv.Itoa(size))
	if with := size + len(strconv.Itoa(n)); with != n {
		n = with
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// paxTime writes nanoseconds counted forward from sec as a decimal number.
func paxTime(sec int64, nsec uint32) string {
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		sign, sec, nsec = "-", -(sec + 1), 1_000_000_000-nsec
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

// ustar is a header block (POSIX.1-2017 pax, "ustar Interchange Format").
func ustar(name string, typeflag byte, mode, size int64) string {
	b := make([]byte, tarBlock)
	copy(b, name)
	copy(b[100:], fmt.Sprintf("%07o", mode))
	copy(b[108:], "0000000\x000000000") // owner
	copy(b[124:], fmt.Sprintf("%011o", size))
	copy(b[136:], "00000000000") // time
	b[156] = typeflag
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ")
	var sum int
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(b)
}

func padded(s string) string {
	return s + strings.Repeat("\x00", int(align(int64(len(s)), tarBlock))-len(s))
}
