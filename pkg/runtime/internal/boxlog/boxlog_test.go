package boxlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// read joins the entries of each stream.
func read(t testing.TB, dir string, o Options) (streams [3]string, n int) {
	t.Helper()
	var b [3]strings.Builder
	for e, err := range Read(t.Context(), dir, o) {
		require.NoError(t, err)
		b[e.Stream].Write(e.Bytes())
		n++
	}
	for i := range b {
		streams[i] = b[i].String()
	}
	return streams, n
}

func all(t testing.TB, dir string) [3]string {
	s, _ := read(t, dir, Options{Tail: -1})
	return s
}

// TestExact writes random bytes in random pieces and reads them back.
func TestExact(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	w := NewWriter(dir)
	var want [3]string
	for i := range 200 {
		p := make([]byte, r.IntN(3*maxText/2))
		for j := range p {
			p[j] = byte(r.IntN(256))
			if r.IntN(50) == 0 {
				p[j] = '\n'
			}
		}
		s := Stream(1 + r.IntN(2))
		w.Write(time.Now(), s, p)
		want[s] += string(p)
		if i%50 == 0 {
			require.NoError(t, w.Close())
			w = NewWriter(dir) // the box was started again
		}
	}
	require.NoError(t, w.Close())
	require.Zero(t, w.Lost())
	got := all(t, dir)
	require.True(t, got == want, "the bytes are not those that were written")
}

func TestTail(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(dir)
	now := time.Now()
	w.Write(now, Stdout, []byte("one\ntwo\nth"))
	w.Write(now, Stderr, []byte("err one\nerr "))
	w.Write(now, Stdout, []byte("ree\nfour"))
	w.Write(now, Stderr, []byte("two\n"))
	for n, want := range map[int][3]string{
		0:  {},
		1:  {1: "four"},
		2:  {1: "four", 2: "err two\n"},
		3:  {1: "three\nfour", 2: "err two\n"},
		4:  {1: "three\nfour", 2: "err one\nerr two\n"},
		5:  {1: "two\nthree\nfour", 2: "err one\nerr two\n"},
		99: {1: "one\ntwo\nthree\nfour", 2: "err one\nerr two\n"},
	} {
		got, _ := read(t, dir, Options{Tail: n})
		if n == 3 || n == 2 { // of a stream the rest of a line that began before is left out
			require.Equal(t, want[1], got[1], "tail %d", n)
			continue
		}
		require.Equal(t, want, got, "tail %d", n)
	}
	got, n := read(t, t.TempDir(), Options{Tail: 3})
	require.Equal(t, [3]string{}, got)
	require.Zero(t, n)
}

func TestSince(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(dir)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	w.Write(at, Stdout, []byte("old\n"))
	w.Write(at.Add(time.Second), Stdout, []byte("new\n"))
	got, n := read(t, dir, Options{Tail: -1, Since: at.Add(1)})
	require.Equal(t, "new\n", got[Stdout])
	require.Equal(t, 1, n)
	for e := range Read(t.Context(), dir, Options{Tail: 1}) {
		require.True(t, e.Time.Equal(at.Add(time.Second)))
	}
}

// TestRotation fills many files while followers read, and looks at what is kept.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(dir)
	w.limit = 20_000
	const lines = 20_000
	var follow atomic.Bool
	follow.Store(true)
	ahead := make(chan struct{}, 200) // the writer must not be a rotation ahead, or lines are lost as designed
	var readers sync.WaitGroup
	readers.Go(func() {
		next := 0
		for e, err := range Read(context.Background(), dir, Options{Tail: -1, Follow: follow.Load}) {
			if err != nil || string(e.Text) != fmt.Sprintf("line %d", next) {
				t.Errorf("%q, %v: want line %d", e.Text, err, next)
				return
			}
			next++
			<-ahead
		}
		if next != lines {
			t.Errorf("%d lines", next)
		}
	})
	for i := range lines {
		select {
		case ahead <- struct{}{}:
		case <-time.After(time.Minute):
			t.Fatal("the reader does not read")
		}
		w.Write(time.Now(), Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	follow.Store(false)
	readers.Wait()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, found, fileCount)
	for _, f := range found {
		fi, err := os.Stat(f)
		require.NoError(t, err)
		require.LessOrEqual(t, fi.Size(), w.limit)
	}
	got := all(t, dir)[Stdout]
	require.True(t, strings.HasSuffix(got, fmt.Sprintf("line %d\n", lines-1)))
	first := got[:strings.IndexByte(got, '\n')]
	require.NotEqual(t, "line 0", first)
	last, _ := read(t, dir, Options{Tail: 500}) // over a rotation
	require.Equal(t, 500, strings.Count(last[Stdout], "\n"))
	require.True(t, strings.HasSuffix(got, last[Stdout]))
}

// TestTorn leaves what a kill in the middle of a write leaves.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(dir)
	w.Write(time.Now(), Stdout, []byte("whole\n"))
	require.NoError(t, w.Close())
	f, err := os.OpenFile(filepath.Join(dir, Name), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString("2026-01-02T03:04:05Z stdout F half of a li")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, "whole\n", all(t, dir)[Stdout])

	var follow atomic.Bool
	follow.Store(true)
	got := make(chan string)
	go func() {
		for e := range Read(context.Background(), dir, Options{Tail: 0, Follow: follow.Load}) {
			got <- string(e.Bytes())
		}
		close(got)
	}()
	w = NewWriter(dir)
	time.Sleep(2 * pollEvery)
	w.Write(time.Now(), Stdout, []byte("next\n"))
	require.Equal(t, "next\n", <-got)
	follow.Store(false)
	for range got {
	}
	require.Equal(t, "whole\nnext\n", all(t, dir)[Stdout])
}

// TestUnwritable takes the log's place away and gives it back.
func TestUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	w := NewWriter(dir)
	w.Write(time.Now(), Stdout, []byte("lost\n"))
	require.EqualValues(t, 5, w.Lost())
	require.NoError(t, os.Mkdir(dir, 0o700))
	w.Write(time.Now(), Stdout, []byte("kept\n"))
	require.EqualValues(t, 5, w.Lost())
	require.Equal(t, "kept\n", all(t, dir)[Stdout])
}

// TestFull writes to a device that is full.
func TestFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); errors.Is(err, os.ErrNotExist) {
		t.Skip("no /dev/full on this system")
	}
	dir := t.TempDir()
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(dir, Name)))
	w := NewWriter(dir)
	w.Write(time.Now(), Stdout, []byte("lost\n"))
	w.Write(time.Now(), Stderr, []byte("too\n"))
	require.EqualValues(t, 9, w.Lost())
}

func TestCancelledFollow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range Read(ctx, t.TempDir(), Options{Follow: func() bool { return true }}) {
		last = err
	}
	require.ErrorIs(t, last, context.Canceled)
}

// FuzzLine parses any bytes, and writes what it could parse.
func FuzzLine(f *testing.F) {
	for _, s := range []string{
		"2026-01-02T03:04:05.000000006Z stdout F text", "2026-01-02T03:04:05Z stderr P ", "x stdout F y", "2026-01-02T03:04:05Z stdin F x",
		"2026-01-02T03:04:05Z stdout X x", "2026-01-02T03:04:05+01:00 stdout F a b", "", " ", "   ", "2026-01-02T03:04:05Z stdout F",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ParseLine(line)
		if err != nil {
			return
		}
		if bytes.IndexByte(line, '\n') >= 0 {
			return // no line
		}
		again, err := ParseLine(bytes.TrimSuffix(appendEntry(nil, e.Time.Format(time.RFC3339Nano), e.Stream, e.Text, e.Partial), []byte("\n")))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !again.Time.Equal(e.Time) || again.Stream != e.Stream || again.Partial != e.Partial || !bytes.Equal(again.Text, e.Text) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}

// FuzzRead reads files with anything in them, from any line on.
func FuzzRead(f *testing.F) {
	line := "2026-01-02T03:04:05Z stdout F text\n"
	f.Add([]byte(line+line), []byte("2026-01-02T03:04:05Z stderr P half"), 1)
	f.Add([]byte("\n\n x\n"+line), []byte{}, 0)
	f.Add([]byte(line), []byte(line), math.MaxInt)
	f.Add([]byte(strings.Repeat("x", 3*maxLine)+"\n"+line), []byte(line), 7)
	f.Fuzz(func(t *testing.T, older, current []byte, tail int) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{Name + ".1": older, Name: current} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		most := bytes.Count(older, []byte("\n")) + bytes.Count(current, []byte("\n"))
		n := 0
		for e, err := range Read(t.Context(), dir, Options{Tail: tail}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n > most {
				t.Fatalf("%d entries in %d lines: %q", n, most, e.Text)
			}
		}
		w := NewWriter(dir)
		w.Write(time.Now(), Stdout, []byte("after\n"))
		var last string
		for e := range Read(t.Context(), dir, Options{Tail: -1}) {
			last = string(e.Text)
		}
		if last != "after" {
			t.Fatalf("after that the last entry is %q", last)
		}
		w.Close()
	})
}
