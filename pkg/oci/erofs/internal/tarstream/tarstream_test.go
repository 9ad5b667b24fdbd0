package tarstream

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// seen is what a reader said about a member.
type seen struct {
	typ            byte
	name, link     string
	mode, uid, gid int64
	size           int64
	sec            int64
	nanos          int
	major, minor   int64
	xattrs         string
	data           string
}

const maxData = 1 << 20

func ours(r io.Reader) (list []seen, digest string, err error) {
	sum := sha256.New()
	t := NewReader(r, sum, nil)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return list, "", err
		}
		s := seen{typ: h.Type, name: h.Name, link: h.Linkname, mode: h.Mode, uid: h.UID, gid: h.GID, size: h.Size,
			sec: h.Seconds, nanos: int(h.Nanos), major: h.Major, minor: h.Minor}
		var xs []string
		for _, x := range h.Xattrs {
			if x.Value != "" { // archive/tar loses those
				xs = append(xs, x.Name+"="+x.Value)
			}
		}
		sort.Strings(xs)
		s.xattrs = strings.Join(xs, "\n")
		if h.Size <= maxData {
			data := make([]byte, h.Size)
			segs := h.Segments
			if !h.Sparse {
				segs = []Segment{{0, h.Size}}
			}
			done := int64(0)
			err := t.Data(func(b []byte) error {
				for len(b) > 0 {
					n := copy(data[segs[0].Offset+done:segs[0].Offset+segs[0].Length], b)
					b, done = b[n:], done+int64(n)
					if done == segs[0].Length {
						segs, done = segs[1:], 0
					}
				}
				return nil
			})
			if err != nil {
				return list, "", err
			}
			s.data = string(data)
		}
		list = append(list, s)
	}
	err = t.Drain()
	return list, fmt.Sprintf("%x", sum.Sum(nil)), err
}

func std(r io.Reader) (list []seen, err error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		s := seen{typ: h.Typeflag, name: h.Name, link: h.Linkname, mode: h.Mode, uid: int64(h.Uid), gid: int64(h.Gid), size: h.Size,
			sec: h.ModTime.Unix(), nanos: h.ModTime.Nanosecond(), major: h.Devmajor, minor: h.Devminor}
		var xs []string
		for k, v := range h.PAXRecords {
			if k, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				xs = append(xs, k+"="+v)
			}
		}
		sort.Strings(xs)
		s.xattrs = strings.Join(xs, "\n")
		switch s.typ {
		case tar.TypeCont, tar.TypeGNUSparse, 0:
			s.typ = tar.TypeReg
		}
		if s.typ != tar.TypeReg {
			s.size = 0
		}
		if h.Size <= maxData {
			b, err := io.ReadAll(t)
			if err != nil {
				return list, err
			}
			if s.typ == tar.TypeReg {
				s.data = string(b)
			}
		}
		list = append(list, s)
	}
}

func archive(t testing.TB, format tar.Format, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Format = format
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.CopyN(w, strings.NewReader(strings.Repeat("data", int(h.Size))), h.Size)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func archives(t testing.TB) map[string][]byte {
	at := time.Unix(1_700_000_000, 0)
	plain := []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at},
		{Name: "empty", Typeflag: tar.TypeReg, ModTime: at},
		{Name: "file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1000, Gid: 1001, Size: 1000, ModTime: at},
		{Name: "link", Linkname: "file", Typeflag: tar.TypeLink, ModTime: at},
		{Name: "sym", Linkname: "../x", Typeflag: tar.TypeSymlink, ModTime: at},
		{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, ModTime: at},
		{Name: strings.Repeat("prefix/", 20) + "name", Typeflag: tar.TypeReg, Size: 513, ModTime: at},
	}
	gnu := append(plain[:6:6],
		tar.Header{Name: strings.Repeat("long/", 100) + "x", Typeflag: tar.TypeReg, Size: 5, ModTime: at},
		tar.Header{Name: "long", Linkname: strings.Repeat("long/", 100), Typeflag: tar.TypeSymlink, ModTime: time.Unix(-5, 0)},
		tar.Header{Name: "big", Typeflag: tar.TypeReg, Uid: 1 << 30, Gid: -1, ModTime: time.Unix(1<<40, 0)})
	pax := append(gnu[:8:8],
		tar.Header{Name: "ünï\xffcode", Typeflag: tar.TypeReg, Uid: 1 << 33, ModTime: time.Unix(-3, 250_000_000),
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b\x00=\nc", "SCHILY.xattr.security.capability": "\x01\x02", "comment": "x"}},
		tar.Header{Name: "nanos", Typeflag: tar.TypeReg, Size: 1, ModTime: time.Unix(5, 123_456_789)})
	global := append([]tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "never"}}}, pax...)
	return map[string][]byte{
		"ustar": archive(t, tar.FormatUSTAR, plain...), "gnu": archive(t, tar.FormatGNU, gnu...),
		"pax": archive(t, tar.FormatPAX, pax...), "global": archive(t, tar.FormatPAX, global...), "none": nil,
	}
}

func TestAgreesWithArchiveTar(t *testing.T) {
	for name, a := range archives(t) {
		t.Run(name, func(t *testing.T) {
			want, err := std(bytes.NewReader(a))
			require.NoError(t, err)
			got, digest, err := ours(bytes.NewReader(a))
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, fmt.Sprintf("%x", sha256.Sum256(a)), digest)

			for _, r := range []io.Reader{iotest.OneByteReader(bytes.NewReader(a)), iotest.DataErrReader(bytes.NewReader(a))} {
				got, again, err := ours(r)
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.Equal(t, digest, again)
			}
		})
	}
}

func TestTrailingBytesAreDigested(t *testing.T) {
	a := append(archives(t)["ustar"], "rubbish behind the end"...)
	_, digest, err := ours(bytes.NewReader(a))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%x", sha256.Sum256(a)), digest)
}

func TestRefusesWhatIsNoArchive(t *testing.T) {
	good := archives(t)["pax"]
	flip := func(i int, c byte) []byte { b := bytes.Clone(good); b[i] = c; return b }
	sum := func(b []byte) []byte {
		copy(b[148:156], "        ")
		n := 0
		for _, c := range b[:512] {
			n += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", n))
		return b
	}
	tests := map[string]struct {
		data []byte
		want error
	}{
		"text":             {[]byte(strings.Repeat("not a tar ", 100)), ErrHeader},
		"checksum":         {flip(0, 'X'), ErrHeader},
		"octal":            {sum(flip(101, '9')), ErrHeader},
		"half a header":    {good[:100], io.ErrUnexpectedEOF},
		"half a pair":      {append(make([]byte, 512), good[:512]...), ErrHeader},
		"short pax header": {archives(t)["global"][:700], io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := ours(bytes.NewReader(tt.data))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestErrorsAreSticky(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("x", 2000)), sha256.New(), nil)
	_, first := r.Next()
	_, second := r.Next()
	require.ErrorIs(t, first, ErrHeader)
	require.Equal(t, first, second)
}

func TestCheckEndsTheStream(t *testing.T) {
	stop := errors.New("stop")
	r := NewReader(bytes.NewReader(archives(t)["pax"]), sha256.New(), func(total int64) error {
		require.Positive(t, total)
		return stop
	})
	_, err := r.Next()
	require.ErrorIs(t, err, stop)
}

// What both readers accept they must read alike, and what we accept must not
// be refused by archive/tar for reasons other than those listed.
func FuzzAgreesWithArchiveTar(f *testing.F) {
	for _, a := range archives(f) {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, _, err := ours(bytes.NewReader(data))
		if err != nil {
			return
		}
		want, err := std(bytes.NewReader(data))
		if err != nil {
			return // stricter about PAX keys of its own
		}
		require.Equal(t, want, got)
	})
}
