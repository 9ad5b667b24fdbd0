package egress

import (
	"bytes"
	"net/netip"
	"strings"
)

// httpHead reads the head of an HTTP/1 request (RFC 9112 §3) line by line. It is
// stricter than servers are, so that none reads another name out of the same bytes:
// exactly one Host, no folded lines, no bare carriage returns.
type httpHead struct {
	read  int // bytes of whole lines
	lines int // of the head
	names []string
	hosts int
}

// sniff goes on where it was; b holds what came so far.
func (h *httpHead) sniff(b []byte) (sniffed, []string) {
	for {
		rest := b[h.read:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			if h.lines == 0 && !mayBeRequest(rest) {
				return sniffOther, nil
			}
			return sniffMore, nil
		}
		line := bytes.TrimSuffix(rest[:end], []byte{'\r'})
		h.read += end + 1
		if h.lines == 0 {
			if len(line) == 0 {
				continue // servers skip empty lines before a request (§2.2)
			}
			if !mayBeRequest(line) || !bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
				return sniffOther, nil
			}
			if !h.request(line) {
				return sniffBroken, nil
			}
			if h.lines++; h.names == nil && bytes.HasPrefix(line, []byte("PRI * HTTP/2")) {
				return sniffOther, nil // HTTP/2 is not read
			}
			continue
		}
		h.lines++
		if len(line) == 0 {
			return h.result()
		}
		if !h.field(line) {
			return sniffBroken, nil
		}
	}
}

func (h *httpHead) result() (sniffed, []string) {
	switch {
	case h.hosts > 1:
		return sniffBroken, nil
	case len(h.names) == 0:
		return sniffNone, nil
	}
	return sniffNames, h.names
}

// mayBeRequest tells whether a line, or the beginning of one, can be a request's: a
// token, then a blank.
func mayBeRequest(line []byte) bool {
	for i, c := range line {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		case c == ' ' || c == '\t' || c == '\v' || c == '\f':
			return i > 0
		case c == '\r' && i == len(line)-1:
			return true // its newline may follow
		default:
			return false
		}
	}
	return true
}

// request reads the request line. A target that names a host counts as Host does.
func (h *httpHead) request(line []byte) bool {
	if !clean(line) {
		return false
	}
	words := strings.Fields(string(line))
	if len(words) != 3 {
		return false
	}
	target := words[1]
	switch {
	case strings.EqualFold(words[0], "CONNECT"):
		return h.name(target)
	case strings.HasPrefix(target, "/") || target == "*":
		return true
	}
	_, rest, ok := strings.Cut(target, "://")
	if !ok {
		return false
	}
	if i := strings.IndexAny(rest, "/?#\\"); i >= 0 {
		rest = rest[:i]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return h.name(rest)
}

func (h *httpHead) field(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !clean(line) || line[0] == ' ' || line[0] == '\t' {
		return false
	}
	if strings.EqualFold(string(bytes.TrimSpace(name)), "host") {
		h.hosts++
		if v := bytes.TrimSpace(value); len(v) > 0 {
			return h.name(string(v))
		}
	}
	return true
}

// name adds the name of an authority, without its port.
func (h *httpHead) name(authority string) bool {
	host := authority
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		if strings.Trim(host[i+1:], "0123456789") != "" {
			return false
		}
		host = host[:i]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return false
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return false
		}
	}
	if host == "" {
		return false
	}
	h.names = append(h.names, host)
	return true
}

// clean tells whether a line has no control characters that readers differ on.
func clean(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
