package tarfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/stretchr/testify/require"
)

// sample is an entry with its content.
type sample struct {
	Header
	content string
}

func samples() []sample {
	long := strings.Repeat("directory/", 30)
	return []sample{
		{Header{Name: "dir", Type: TypeDir, Mode: 0o1777, Sec: 1700000000}, ""},
		{Header{Name: "dir/file", Type: TypeReg, Mode: 0o4755, UID: 1000, GID: 100, Size: 5, Sec: 1700000000, Nsec: 123456789}, "hello"},
		{Header{Name: "dir/empty", Type: TypeReg, Mode: 0o600}, ""},
		{Header{Name: "dir/hard", Type: TypeLink, Mode: 0o4755, Link: "dir/file"}, ""},
		{Header{Name: "dir/soft", Type: TypeSymlink, Mode: 0o777, Link: "../" + long + "target"}, ""},
		{Header{Name: "dir/null", Type: TypeChar, Mode: 0o666, Major: 1, Minor: 3}, ""},
		{Header{Name: "dir/disk", Type: TypeBlock, Mode: 0o660, Major: 254, Minor: 70000}, ""},
		{Header{Name: "dir/fifo", Type: TypeFIFO, Mode: 0o644}, ""},
		{Header{Name: long + "file with spaces, ümlauts and\nline feeds", Type: TypeReg, Size: 512, UID: 1<<32 - 2, GID: 1 << 31, Sec: -1, Nsec: 5e8}, strings.Repeat("x", 512)},
		{Header{Name: strings.Repeat("n", 99), Type: TypeDir, Sec: -5}, ""},
		{Header{Name: strings.Repeat("n", 100), Type: TypeDir, Sec: 1 << 34}, ""},
		{Header{Name: "with attributes", Type: TypeReg, Size: 1, Xattrs: []Xattr{{"user.b", "1=2\n\x00\xff"}, {"security.capability", strings.Repeat("\x01", 500)}}}, "y"},
	}
}

func write(t testing.TB, list []sample) []byte {
	var out bytes.Buffer
	w := NewWriter(&out)
	for _, s := range list {
		require.NoError(t, w.Next(&s.Header))
		n, err := io.WriteString(w, s.content)
		require.NoError(t, err)
		require.Equal(t, len(s.content), n)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func readAll(r io.Reader) (list []sample, err error) {
	t := NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		s := sample{Header: *h}
		for {
			p, err := t.Chunk()
			if err == io.EOF {
				break
			}
			if err != nil {
				return list, err
			}
			s.content += string(p)
		}
		list = append(list, s)
	}
}

// expected is how a sample comes back: directories keep the slash they are
// written with, and clean takes it off.
func expected(list []sample) []sample {
	for i := range list {
		if list[i].Type == TypeDir {
			list[i].Name += "/"
		}
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	b := write(t, samples())
	for _, r := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(b))} {
		got, err := readAll(r)
		require.NoError(t, err)
		require.Equal(t, expected(samples()), got)
	}
}

// TestStandardReads: archive/tar finds in our archives what we put in.
func TestStandardReads(t *testing.T) {
	r := tar.NewReader(bytes.NewReader(write(t, samples())))
	for _, want := range expected(samples()) {
		h, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, want.Name, h.Name)
		require.Equal(t, want.Type, h.Typeflag)
		require.Equal(t, want.Link, h.Linkname)
		require.Equal(t, int64(want.Mode), h.Mode)
		require.Equal(t, []int{int(want.UID), int(want.GID)}, []int{h.Uid, h.Gid})
		require.True(t, time.Unix(want.Sec, want.Nsec).Equal(h.ModTime), "%v", h.ModTime)
		require.Equal(t, []int64{int64(want.Major), int64(want.Minor)}, []int64{h.Devmajor, h.Devminor})
		require.Equal(t, want.Size, h.Size)
		for _, x := range want.Xattrs {
			require.Equal(t, x.Value, h.PAXRecords[xattrPrefix+x.Name])
		}
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, want.content, string(content))
	}
	_, err := r.Next()
	require.Equal(t, io.EOF, err)
}

// TestReadsStandard: we find in the archives of archive/tar, in each format it
// writes, what it put in.
func TestReadsStandard(t *testing.T) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		want := expected(samples())
		kept := want[:0]
		for _, s := range want {
			h := &tar.Header{
				Format: format, Name: s.Name, Typeflag: s.Type, Linkname: s.Link, Mode: int64(s.Mode), Uid: int(s.UID), Gid: int(s.GID),
				Size: s.Size, ModTime: time.Unix(s.Sec, s.Nsec), Devmajor: int64(s.Major), Devminor: int64(s.Minor),
			}
			if format != tar.FormatPAX {
				h.ModTime, s.Nsec = time.Unix(s.Sec, 0), 0
			}
			for _, x := range s.Xattrs {
				if h.PAXRecords == nil {
					h.PAXRecords = map[string]string{}
				}
				h.PAXRecords[xattrPrefix+x.Name] = x.Value
			}
			if w.WriteHeader(h) != nil { // what this format cannot say
				require.NotEqual(t, tar.FormatPAX, format)
				continue
			}
			_, err := io.WriteString(w, s.content)
			require.NoError(t, err)
			kept = append(kept, s)
		}
		require.NoError(t, w.Close())
		require.Greater(t, len(kept), 6)
		got, err := readAll(&out)
		require.NoError(t, err, "%v", format)
		for i := range got { // pax records are written sorted
			require.ElementsMatch(t, kept[i].Xattrs, got[i].Xattrs)
			kept[i].Xattrs, got[i].Xattrs = nil, nil
		}
		require.Equal(t, kept, got, "%v", format)
	}
}

// TestShortContent: an entry whose content is less than announced is filled up,
// and more is refused.
func TestShortContent(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	require.NoError(t, w.Next(&Header{Name: "a", Type: TypeReg, Size: 1000}))
	_, err := io.WriteString(w, "abc")
	require.NoError(t, err)
	require.NoError(t, w.Next(&Header{Name: "b", Type: TypeReg, Size: 2}))
	_, err = io.WriteString(w, "abc")
	require.Equal(t, io.ErrShortWrite, err)
	require.NoError(t, w.Close())
	got, err := readAll(&out)
	require.NoError(t, err)
	require.Equal(t, "abc"+strings.Repeat("\x00", 997), got[0].content)
	require.Equal(t, "ab", got[1].content)
}

// TestDamaged: whatever is wrong with an archive, the error says that it is the
// archive.
func TestDamaged(t *testing.T) {
	good := write(t, samples())
	for n := 1; n < len(good)-1024; n += 97 {
		_, err := readAll(bytes.NewReader(good[:n]))
		if err == nil { // cut between two entries, which is an end as well
			require.Zero(t, n%blockSize)
			continue
		}
		require.ErrorIs(t, err, agentapi.ErrArchive, "cut to %d bytes", n)
	}
	one := func(change func(b []byte)) []byte {
		b := write(t, []sample{{Header{Name: "name", Type: TypeReg, Mode: 0o644}, ""}})
		change(b)
		sum := fChecksum.of(b)
		octal(sum[:7], uint64(checksum(b)))
		return b
	}
	extended := func(kind byte, size int, content string) []byte {
		w := NewWriter(nil)
		b := append(w.block(&Header{Name: "x", Type: kind, Size: int64(size)}), content...)
		octal(fSize.of(b), uint64(size))
		sum := fChecksum.of(b)
		octal(sum[:7], uint64(checksum(b)))
		return append(b, good...)
	}
	pax := func(s string) []byte {
		return extended(typePax, len(s), s+string(make([]byte, padding(int64(len(s))))))
	}
	for name, b := range map[string][]byte{
		"text":           []byte(strings.Repeat("no archive", 100)),
		"checksum":       append(append([]byte{}, good[:10]...), append([]byte{'!'}, good[11:]...)...),
		"type":           one(func(b []byte) { b[typeAt] = '!' }),
		"sparse":         one(func(b []byte) { b[typeAt] = typeGNUSparse }),
		"digits":         one(func(b []byte) { copy(fSize.of(b), "12x") }),
		"negative size":  one(func(b []byte) { copy(fSize.of(b), strings.Repeat("\xff", 12)) }),
		"large size":     one(func(b []byte) { copy(fSize.of(b), "\x80"+strings.Repeat("\xff", 11)) }),
		"large id":       one(func(b []byte) { copy(fUID.of(b), "\x80\x00\x00\x01\x00\x00\x00\x00") }),
		"huge extended":  extended(typePax, maxExtended+1, ""),
		"pax length":     pax("99 path=x\n"),
		"pax no end":     pax("9 path=xy"),
		"pax no key":     pax("5 =x\n"),
		"pax no equals":  pax("7 path\n"),
		"pax short":      pax("3 \n"),
		"pax size":       pax("11 size=-1\n"),
		"pax uid":        pax("19 uid=99999999999\n"),
		"pax time":       pax("12 mtime=1x\n"),
		"pax NUL":        pax("11 path=\x00a\n"),
		"pax sparse":     pax("22 GNU.sparse.major=1\n"),
		"extended alone": append(extended(typePax, 0, "")[:blockSize], make([]byte, 2*blockSize)...),
	} {
		_, err := readAll(bytes.NewReader(b))
		require.ErrorIs(t, err, agentapi.ErrArchive, name)
	}
}

func TestStreamErrors(t *testing.T) {
	broken := errors.New("broken")
	b := write(t, samples())
	_, err := readAll(io.MultiReader(bytes.NewReader(b[:600]), iotest.ErrReader(broken)))
	require.Equal(t, broken, err)
	w := NewWriter(brokenWriter{broken})
	require.NoError(t, w.Next(&Header{Name: "a", Type: TypeReg, Size: 1 << 20}))
	_, err = w.Write(make([]byte, 1<<20))
	require.Equal(t, broken, err)
	require.Equal(t, broken, w.Close())
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// FuzzReader: any bytes yield entries or an error, in memory that what came in
// bounds, and what was read can be written and read again.
func FuzzReader(f *testing.F) {
	f.Add(write(f, samples()))
	f.Add(write(f, samples()[7:9]))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := readAll(bytes.NewReader(b))
		var e *agentapi.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("untyped error %v", err)
		}
		size := 0
		for i := range list {
			size += len(list[i].content)
			if _, err := clean(list[i].Name); err != nil && !errors.As(err, &e) {
				t.Fatalf("untyped error %v", err)
			}
			if list[i].Type == TypeDir { // Next adds the slash
				list[i].Name = strings.TrimRight(list[i].Name, "/")
			}
		}
		if size > len(b) {
			t.Fatalf("%d bytes of content out of %d", size, len(b))
		}
		again, err := readAll(bytes.NewReader(write(t, list)))
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d entries become %d, %v", len(list), len(again), err)
		}
	})
}

func TestBase(t *testing.T) {
	for path, want := range map[string]string{
		"/": ".", "": ".", "/.": ".", "/a/.": ".", "/a/..": ".", "/a": "a", "/a/": "a", "/a/b": "b", "/a/b//": "b", "a": "a", "./": ".",
	} {
		require.Equal(t, want, Base(path), strconv.Quote(path))
	}
}
