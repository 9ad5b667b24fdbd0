package tarstream

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

const (
	paxXattr     = "SCHILY.xattr."
	paxGNUSparse = "GNU.sparse."
)

// paxRecords holds the extended header that precedes a member.
type paxRecords struct {
	set    bool
	values map[string]string // all but xattrs and sparse map entries
	xattrs []Xattr
	pairs  []string // GNU sparse 0.0: offset, numbytes, offset, numbytes, …
}

func (p *paxRecords) reset() {
	if p.set {
		*p = paxRecords{}
	}
}

// sparse tells whether the records announce a sparse file.
func (p *paxRecords) sparse() bool {
	if !p.set {
		return false
	}
	_, v1 := p.values["GNU.sparse.major"]
	_, v01 := p.values["GNU.sparse.map"]
	return v1 || v01 || len(p.pairs) > 0 || p.values["GNU.sparse.numblocks"] != ""
}

// parse adds the records "length key=value\n" of one extended header.
func (p *paxRecords) parse(b []byte) error {
	if p.values == nil {
		p.values = make(map[string]string)
	}
	p.set = true
	for len(b) > 0 {
		sp := bytes.IndexByte(b[:min(len(b), 20)], ' ')
		if sp <= 0 {
			return fmt.Errorf("pax record without length: %w", ErrHeader)
		}
		n, err := strconv.ParseUint(string(b[:sp]), 10, 31)
		if err != nil || int(n) > len(b) || int(n) < sp+2 || b[n-1] != '\n' {
			return fmt.Errorf("pax record of length %q: %w", b[:sp], ErrHeader)
		}
		key, value, ok := strings.Cut(string(b[sp+1:n-1]), "=")
		if !ok || key == "" {
			return fmt.Errorf("pax record without key: %w", ErrHeader)
		}
		b = b[n:]
		switch {
		case key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes":
			// Sparse 0.0 repeats the two keys in turn.
			if (len(p.pairs)%2 == 0) != (key == "GNU.sparse.offset") {
				return fmt.Errorf("pax sparse map out of order: %w", ErrHeader)
			}
			p.pairs = append(p.pairs, value)
		case strings.HasPrefix(key, paxXattr):
			p.setXattr(key[len(paxXattr):], value)
		default:
			if strings.IndexByte(value, 0) >= 0 {
				return fmt.Errorf("pax record %q has a NUL: %w", key, ErrHeader)
			}
			p.values[key] = value
		}
	}
	return nil
}

func (p *paxRecords) setXattr(name, value string) {
	for i := range p.xattrs {
		if p.xattrs[i].Name == name {
			p.xattrs[i].Value = value
			return
		}
	}
	p.xattrs = append(p.xattrs, Xattr{name, value})
}

// apply overrides the fields of the header block. An empty value means that
// the header block counts (POSIX.1-2017 pax, "Extended Header Keyword
// Precedence").
func (p *paxRecords) apply(h *Header) error {
	if !p.set {
		return nil
	}
	h.Xattrs = append(h.Xattrs, p.xattrs...)
	for key, value := range p.values {
		if value == "" {
			continue
		}
		var err error
		switch key {
		case "path":
			h.Name = value
		case "linkpath":
			h.Linkname = value
		case "uid":
			h.UID, err = strconv.ParseInt(value, 10, 64)
		case "gid":
			h.GID, err = strconv.ParseInt(value, 10, 64)
		case "size":
			h.Stored, err = strconv.ParseInt(value, 10, 64)
			if err == nil && h.Stored < 0 {
				err = ErrHeader
			}
			h.Size = h.Stored
		case "mtime":
			h.Seconds, h.Nanos, err = parseTime(value)
		}
		if err != nil {
			return fmt.Errorf("pax record %s=%q: %w", key, value, ErrHeader)
		}
	}
	if name := p.values["GNU.sparse.name"]; name != "" {
		h.Name = name // the header has a made-up one
	}
	return nil
}

// parseTime decodes seconds with an optional fraction; digits below the
// nanosecond are cut. Nanos is always counted forward from Seconds.
func parseTime(s string) (sec int64, nanos uint32, err error) {
	whole, frac, _ := strings.Cut(s, ".")
	negative := strings.HasPrefix(whole, "-")
	if sec, err = strconv.ParseInt(whole, 10, 64); err != nil {
		return 0, 0, err
	}
	for i := range len(frac) {
		if frac[i] < '0' || frac[i] > '9' {
			return 0, 0, ErrHeader
		}
	}
	if len(frac) > 9 {
		frac = frac[:9]
	}
	for i := range 9 {
		nanos *= 10
		if i < len(frac) {
			nanos += uint32(frac[i] - '0')
		}
	}
	if negative && nanos > 0 {
		if sec == -1<<63 {
			return 0, 0, ErrHeader
		}
		sec, nanos = sec-1, 1_000_000_000-nanos
	}
	return sec, nanos, nil
}
