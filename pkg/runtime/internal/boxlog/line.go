// Package boxlog is the log of what a box's main command writes: the file format,
// its one writer, and readers that may follow it from any process.
//
// The format is that of Kubernetes' container runtime interface, a line each:
//
//	2026-01-02T03:04:05.000000006Z stdout F text
//
// Text is the command's bytes, whatever they are; it never holds a newline. F
// says that a newline followed it, P that none did: the line goes on in the next
// entry of the same stream, or ended with the stream. So the entries of a stream
// joined, with a newline after each F, are the bytes that were written.
package boxlog

import (
	"bytes"
	"errors"
	"time"
)

// Stream is where the command wrote to.
type Stream uint8

// Streams. A terminal's output is Stdout.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

var streamNames = [...]string{Stdout: "stdout", Stderr: "stderr"}

func (s Stream) String() string {
	if int(s) < len(streamNames) && streamNames[s] != "" {
		return streamNames[s]
	}
	return "unknown"
}

// Entry is one line of the log.
type Entry struct {
	Time    time.Time
	Stream  Stream
	Text    []byte // without a newline
	Partial bool   // no newline followed
}

// Bytes are what the command wrote.
func (e Entry) Bytes() []byte {
	if e.Partial {
		return e.Text
	}
	return append(e.Text[:len(e.Text):len(e.Text)], '\n')
}

// maxText is the most text in one entry, as container runtimes have it: longer
// lines are written as several. maxLine is more than the longest line.
const (
	maxText = 16 << 10
	maxLine = maxText + 64
)

// appendEntry appends the line of an entry, its stamp being the time as text.
func appendEntry(b []byte, stamp string, s Stream, text []byte, partial bool) []byte {
	b = append(b, stamp...)
	b = append(b, ' ')
	b = append(b, streamNames[s]...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, text...)
	return append(b, '\n')
}

var errLine = errors.New("boxlog: not a line of a log")

// ParseLine reads one line, given without its newline. The entry refers to it.
func ParseLine(line []byte) (Entry, error) {
	var e Entry
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return e, errLine
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(rest) < 2 || rest[1] != ' ' {
		return e, errLine
	}
	switch string(stream) {
	case "stdout":
		e.Stream = Stdout
	case "stderr":
		e.Stream = Stderr
	default:
		return e, errLine
	}
	switch rest[0] {
	case 'P':
		e.Partial = true
	case 'F':
	default:
		return e, errLine
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return e, errLine
	}
	e.Time, e.Text = t, rest[2:]
	return e, nil
}
