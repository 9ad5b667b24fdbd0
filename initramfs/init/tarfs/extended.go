package tarfs

import (
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// extended is what extended headers say about the entry behind them.
type extended struct {
	records    []Xattr // of pax, in order
	name, link string  // of GNU
}

func (e *extended) add(kind byte, content string) error {
	switch kind {
	case typeGNUName:
		e.name, _, _ = strings.Cut(content, "\x00")
	case typeGNULink:
		e.link, _, _ = strings.Cut(content, "\x00")
	case typePax:
		e.records = nil // one header counts: the last
		for content != "" {
			var r Xattr
			var ok bool
			if r, content, ok = cutRecord(content); !ok {
				return damaged("a malformed pax record")
			}
			e.records = append(e.records, r)
		}
	}
	return nil // of global records, nothing concerns us
}

// cutRecord takes "length key=value\n" off the front.
func cutRecord(s string) (r Xattr, rest string, ok bool) {
	digits, _, found := strings.Cut(s, " ")
	n, err := strconv.ParseUint(digits, 10, 31)
	if !found || err != nil || int(n) > len(s) || int(n) < len(digits)+3 || s[n-1] != '\n' {
		return r, "", false
	}
	r.Name, r.Value, ok = strings.Cut(s[len(digits)+1:n-1], "=")
	return r, s[n:], ok && r.Name != ""
}

// apply puts what the extended headers say over what the header says.
func (e *extended) apply(h *Header) error {
	if e.name != "" {
		h.Name = e.name
	}
	if e.link != "" {
		h.Link = e.link
	}
	for _, r := range e.records {
		ok := true
		switch r.Name {
		case "path":
			h.Name = r.Value
		case "linkpath":
			h.Link = r.Value
		case "size":
			var v uint64
			v, ok = decimal(r.Value, 62)
			h.Size = int64(v)
		case "uid":
			var v uint64
			v, ok = decimal(r.Value, 32)
			h.UID = uint32(v)
		case "gid":
			var v uint64
			v, ok = decimal(r.Value, 32)
			h.GID = uint32(v)
		case "mtime":
			h.Sec, h.Nsec, ok = parseTime(r.Value)
		case agentapi.PaxComment:
			h.Sparse = r.Value == agentapi.SparseComment
		default:
			if name, is := strings.CutPrefix(r.Name, xattrPrefix); is {
				h.Xattrs = append(h.Xattrs, Xattr{name, r.Value})
			}
			if strings.HasPrefix(r.Name, "GNU.sparse.") {
				return damaged(strconv.Quote(h.Name) + " is stored sparse, which is not supported: make the archive without --sparse")
			}
		}
		if !ok {
			return damaged("the pax record " + strconv.Quote(r.Name) + " of " + strconv.Quote(h.Name))
		}
	}
	return nil
}

func decimal(s string, bits int) (uint64, bool) {
	v, err := strconv.ParseUint(s, 10, bits)
	return v, err == nil
}

// parseTime reads seconds with or without a fraction, of which nine digits count.
func parseTime(s string) (sec, nsec int64, ok bool) {
	s, negative := strings.CutPrefix(s, "-")
	whole, frac, _ := strings.Cut(s, ".")
	u, ok := decimal(whole, 62)
	if !ok {
		return 0, 0, false
	}
	if frac = frac[:min(len(frac), 9)]; frac != "" {
		f, ok := decimal(frac, 62)
		if !ok {
			return 0, 0, false
		}
		for range 9 - len(frac) {
			f *= 10
		}
		nsec = int64(f)
	}
	sec = int64(u)
	if negative {
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return sec, nsec, true
}
