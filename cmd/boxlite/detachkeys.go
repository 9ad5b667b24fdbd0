package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// defaultDetachKeys are Docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseDetachKeys reads keys as `docker attach --detach-keys` takes them: single
// characters and ctrl-X, with commas in between. Empty means none.
func parseDetachKeys(what, s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, k := range strings.Split(s, ",") {
		rest, ctrl := strings.CutPrefix(strings.ToLower(k), "ctrl-")
		switch {
		case ctrl && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'z':
			keys = append(keys, rest[0]-'a'+1)
		case ctrl && rest == "@":
			keys = append(keys, 0)
		case ctrl && len(rest) == 1 && rest[0] >= '[' && rest[0] <= '_':
			keys = append(keys, rest[0]-'['+27)
		case len(k) == 1 && k[0] < 0x80:
			keys = append(keys, k[0])
		default:
			return nil, fmt.Errorf(`%s: --detach-keys %q: want characters and ctrl-X with commas in between, such as %s`, what, s, defaultDetachKeys)
		}
	}
	return keys, nil
}

var errDetachKeys = errors.New("detach keys")

// detachReader passes keys on until the detach keys come. Those of a sequence
// that has only begun are held back.
type detachReader struct {
	from io.Reader
	keys []byte
	held int    // how many of keys were seen
	out  []byte // to be returned
	err  error  // after out
	buf  [4096]byte
}

func (d *detachReader) Read(p []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.from.Read(d.buf[:])
		d.err = err
		d.scan(d.buf[:n])
		if d.err != nil && !errors.Is(d.err, errDetachKeys) {
			d.out = append(d.out, d.keys[:d.held]...) // no more keys will come
			d.held = 0
		}
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

func (d *detachReader) scan(p []byte) {
	d.out = d.out[:0]
	for _, c := range p {
		for d.held > 0 && c != d.keys[d.held] {
			// The first keys held were not the beginning; the rest may be.
			left := overlap(d.keys, d.held)
			d.out = append(d.out, d.keys[:d.held-left]...)
			d.held = left
		}
		if c != d.keys[d.held] {
			d.out = append(d.out, c)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.err = errDetachKeys
			return
		}
	}
}

// overlap drops the first of n held keys, and those after it that cannot begin
// the sequence. Only the number of those that are left is of interest, as all
// that is held is the beginning of keys.
func overlap(keys []byte, n int) int {
	for k := n - 1; k > 0; k-- {
		if string(keys[n-k:n]) == string(keys[:k]) {
			return k
		}
	}
	return 0
}
