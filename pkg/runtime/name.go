package runtime

import "strings"

// maxName bounds a box's name, in bytes.
const maxName = 128

// validName reports whether a box can be called that: letters, digits, and inside
// also _ . and -. It is no regular expression because one of 128 repetitions takes
// every process that has this package 0.3 ms to compile.
func validName(s string) bool {
	if s == "" || len(s) > maxName || strings.IndexByte("_.-", s[0]) >= 0 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
