package agentapi

import (
	"encoding/binary"
	"errors"
	"io"
)

// headerLen is the length word; bodyHeader is type and request id.
const (
	headerLen  = 4
	bodyHeader = 5
)

// ErrFrame is wrapped by every error about bytes that are no valid frame or
// message. The connection they came from cannot be used any further.
var ErrFrame = errors.New("agentapi: malformed frame")

// FrameError says what was wrong with a frame.
type FrameError struct{ Detail string }

func (e *FrameError) Error() string { return "agentapi: malformed frame: " + e.Detail }
func (e *FrameError) Unwrap() error { return ErrFrame }

// Message is one of the message types of this package, as a pointer.
type Message interface {
	Type() Type
	encode(*encoder)
	decode(*decoder)
}

// AppendFrame appends the whole frame of m to b. It fails with an [Error] of
// [CodeLimit], leaving b as it was, when the message is larger than [MaxFrame].
func AppendFrame(b []byte, id uint32, m Message) ([]byte, error) {
	e := encoder{b: b}
	e.u32(0)
	e.u8(uint8(m.Type()))
	e.u32(id)
	m.encode(&e)
	n := len(e.b) - len(b) - headerLen
	if n > MaxFrame {
		return b, &Error{Code: CodeLimit, Op: m.Type().String(), Msg: "message of " + utoa(uint64(n)) + " bytes, limit " + utoa(MaxFrame)}
	}
	binary.LittleEndian.PutUint32(e.b[len(b):], uint32(n))
	return e.b, nil
}

// Decode parses the body of a frame: everything after the length word. The
// message does not refer to body. Errors wrap [ErrFrame].
func Decode(body []byte) (id uint32, m Message, err error) {
	d := decoder{b: body}
	t := Type(d.u8())
	id = d.u32()
	if d.bad {
		return 0, nil, &FrameError{"body of " + utoa(uint64(len(body))) + " bytes"}
	}
	if m = newMessage(t); m == nil {
		return id, nil, &FrameError{"message type " + utoa(uint64(t))}
	}
	m.decode(&d)
	switch {
	case d.bad:
		return id, nil, &FrameError{t.String() + " is cut short or has a field out of range"}
	case len(d.b) != 0:
		return id, nil, &FrameError{t.String() + " has " + utoa(uint64(len(d.b))) + " bytes left over"}
	}
	return id, m, nil
}

// Reader takes frames off a connection. It buffers, so that a small frame costs
// one read, and keeps at most one frame in memory. Not safe for concurrent use.
type Reader struct {
	r          io.Reader
	buf        []byte
	start, end int
}

const (
	readerBuf     = 4096
	maxEmptyReads = 100
)

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, buf: make([]byte, readerBuf)} }

// Next returns the body of the next frame, valid until the next call. At the end
// of the stream between two frames it returns io.EOF, inside a frame
// io.ErrUnexpectedEOF. A length that is out of range wraps [ErrFrame].
func (r *Reader) Next() ([]byte, error) {
	if err := r.fill(headerLen); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(r.buf[r.start:])
	if n < bodyHeader || n > MaxFrame {
		return nil, &FrameError{"length " + utoa(uint64(n))}
	}
	r.start += headerLen
	if err := r.fill(int(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	body := r.buf[r.start : r.start+int(n)]
	r.start += int(n)
	return body, nil
}

// Read returns the next frame decoded.
func (r *Reader) Read() (id uint32, m Message, err error) {
	body, err := r.Next()
	if err != nil {
		return 0, nil, err
	}
	return Decode(body)
}

// fill makes at least n bytes available at start. The buffer grows with what
// arrives, not with what a length word announces: a sender who wants memory
// reserved has to send the bytes.
func (r *Reader) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	r.end = copy(r.buf, r.buf[r.start:r.end])
	r.start = 0
	if len(r.buf) > readerBuf && n <= readerBuf && r.end <= readerBuf {
		r.buf = append(make([]byte, 0, readerBuf), r.buf[:readerBuf]...)
	}
	for empty := 0; r.end < n; {
		if r.end == len(r.buf) {
			b := make([]byte, min(2*len(r.buf), headerLen+MaxFrame))
			copy(b, r.buf)
			r.buf = b
		}
		m, err := r.r.Read(r.buf[r.end:])
		r.end += m
		if r.end >= n {
			return nil
		}
		if m == 0 && err == nil {
			if empty++; empty == maxEmptyReads {
				err = io.ErrNoProgress
			}
		}
		if err == io.EOF && r.end > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// utoa spares the guest strconv's and fmt's weight in this package.
func utoa(v uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			return string(b[i:])
		}
	}
}
