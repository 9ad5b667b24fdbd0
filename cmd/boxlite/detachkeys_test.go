package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-@": "\x00", "ctrl-[,a": "\x1ba", "ctrl-\\": "\x1c", "ctrl-_": "\x1f", "CTRL-A": "\x01", "x,y": "xy",
	} {
		got, err := parseDetachKeys("run", in)
		require.NoError(t, err, in)
		require.Equal(t, want, string(got), in)
	}
	for _, in := range []string{",", "ctrl-", "ctrl-1", "ab", "é", "ctrl-pq", "a,"} {
		_, err := parseDetachKeys("run", in)
		require.Error(t, err, in)
	}
}

// TestDetachReader compares with the plain search for the keys in what is typed.
func TestDetachReader(t *testing.T) {
	for _, c := range []struct{ keys, typed string }{
		{"\x10\x11", "abc"}, {"\x10\x11", "ab\x10\x11cd"}, {"\x10\x11", "\x10\x10\x11"}, {"\x10\x11", "ends in \x10"},
		{"aab", "aaab"}, {"aab", "aaaaaac"}, {"abab", "abacabab"}, {"ababac", "abababac!"}, {"a", "xa"}, {"aaa", "aabaaa"},
	} {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r }} {
			var got bytes.Buffer
			_, err := io.Copy(&got, &detachReader{from: wrap(strings.NewReader(c.typed)), keys: []byte(c.keys)})
			before, _, found := strings.Cut(c.typed, c.keys)
			require.Equal(t, found, errors.Is(err, errDetachKeys), "%q in %q", c.keys, c.typed)
			require.Equal(t, before, got.String(), "%q in %q", c.keys, c.typed)
		}
	}
}

func TestParseTime(t *testing.T) {
	for _, in := range []string{"10m", "1700000000", "1700000000.5", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00", "2026-01-02T03:04", "2026-01-02"} {
		at, err := parseTime(in, time.Now())
		require.NoError(t, err, in)
		require.True(t, at.Before(time.Now()), in)
	}
	for _, in := range []string{"", "x", "-5", "2026-13-01", "1e99"} {
		_, err := parseTime(in, time.Now())
		require.Error(t, err, in)
	}
}
