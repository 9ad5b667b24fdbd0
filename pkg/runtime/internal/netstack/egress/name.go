package egress

import (
	"errors"
	"fmt"
	"strings"
)

// Names are at most this long as text, and their labels (RFC 1035 §2.3.4).
const (
	maxName  = 253
	maxLabel = 63
)

// canonicalName returns a name in lower case without the last dot. It refuses what
// is no name of letters, digits, hyphens and underscores: other bytes have several
// ways to be written, which would be as many ways around a rule.
func canonicalName(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", false
	}
	label, upper := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = 0
			continue
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		if label++; label > maxLabel {
			return "", false
		}
	}
	if label == 0 {
		return "", false
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, true
}

// ruleName returns the name of a rule in the form that is compared.
func ruleName(s string) (string, error) {
	if s == "*" {
		return s, nil
	}
	rest, wild := strings.CutPrefix(s, "*.")
	for i := 0; i < len(rest); i++ {
		if rest[i] >= 0x80 {
			return "", fmt.Errorf("%q has letters outside ASCII: write the name as DNS has it (xn--…)", s)
		}
	}
	name, ok := canonicalName(rest)
	if !ok {
		if strings.Contains(rest, "*") {
			return "", fmt.Errorf("%q has a wildcard that is not the whole first label: write *.NAME", s)
		}
		return "", fmt.Errorf("%q is no name", s)
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if strings.Trim(last, "0123456789") == "" {
		return "", errors.New("a name does not end in a number; addresses have four parts")
	}
	if wild {
		name = "*." + name
	}
	return name, nil
}
