package vmm

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Printable turns a guest's bytes into text that does nothing to a terminal:
// control characters but newline and tab are shown as dots, carriage returns
// dropped.
func Printable(p []byte) string {
	var b strings.Builder
	b.Grow(len(p))
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		p = p[n:]
		switch {
		case r == '\r':
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case r < 0x20, r == utf8.RuneError && n == 1, r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			b.WriteByte('.') // control, invalid, C1, and what turns text around
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// panicMark is how Linux starts the last line of its life.
var panicMark = []byte("Kernel panic - not syncing: ")

// panicWatch finds the kernel's panic message in a stream that comes in pieces.
type panicWatch struct {
	line  []byte // of the current line, at most panicLine bytes
	found []byte
}

const panicLine = 256

func (w *panicWatch) see(p []byte) {
	for w.found == nil && len(p) > 0 {
		piece, rest, newline := bytes.Cut(p, []byte{'\n'})
		if room := panicLine - len(w.line); room > 0 {
			w.line = append(w.line, piece[:min(room, len(piece))]...)
		}
		if i := bytes.Index(w.line, panicMark); i >= 0 && newline {
			w.found = bytes.Clone(w.line[i+len(panicMark):])
		}
		if newline {
			w.line = w.line[:0]
		}
		p = rest
	}
}

// message returns the panic message, also one whose line has not ended.
func (w *panicWatch) message() (string, bool) {
	m := w.found
	if m == nil {
		i := bytes.Index(w.line, panicMark)
		if i < 0 {
			return "", false
		}
		m = w.line[i+len(panicMark):]
	}
	return strings.TrimSpace(Printable(m)), true
}

// oneLine is Printable for what must not look like several lines.
func oneLine(text string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(Printable([]byte(text)))
}
