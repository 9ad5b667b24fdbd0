package vmm

import (
	"bufio"
	"io"
	"sync"
)

// bufferLimit is how many bytes of one stream wait for a reader while the other
// stream is read: as much as programs expect of a pipe and a socket together.
const bufferLimit = 256 << 10

// buffer is one stream between the goroutine that receives all and its reader.
type buffer struct {
	mu      sync.Mutex
	changed sync.Cond // there is more to read, or more room
	data    []byte    // from off on not read yet
	off     int
	ended   bool
	err     error // why it ended, nil for in order
	nobody  bool  // nobody reads it
}

// discarding takes everything.
var discarding = func() *buffer { b := newBuffer(); b.nobody = true; return b }()

func newBuffer() *buffer {
	b := new(buffer)
	b.changed.L = &b.mu
	return b
}

// fill moves n bytes from r into the buffer, waiting for room.
func (b *buffer) fill(r *bufio.Reader, n int) error {
	for n > 0 {
		if _, err := r.Peek(1); err != nil { // waits for some
			return err
		}
		p, err := r.Peek(min(n, r.Buffered()))
		if err != nil {
			return err
		}
		b.put(p)
		n -= len(p)
		if _, err := r.Discard(len(p)); err != nil {
			return err
		}
	}
	return nil
}

func (b *buffer) put(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(p) > 0 && !b.nobody {
		room := bufferLimit - (len(b.data) - b.off)
		if room == 0 {
			b.changed.Wait()
			continue
		}
		if b.off > 0 && b.off >= len(b.data)/2 {
			b.data, b.off = append(b.data[:0], b.data[b.off:]...), 0
		}
		n := min(room, len(p))
		b.data = append(b.data, p[:n]...)
		p = p[n:]
		b.changed.Broadcast()
	}
}

// Read implements [io.Reader]: it waits for bytes, and ends with the stream.
func (b *buffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.nobody:
			return 0, io.ErrClosedPipe
		case b.off < len(b.data):
			n := copy(p, b.data[b.off:])
			b.off += n
			b.changed.Broadcast()
			return n, nil
		case b.err != nil:
			return 0, b.err
		case b.ended:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		b.changed.Wait()
	}
}

// end ends the stream; the first call counts.
func (b *buffer) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.ended, b.err = true, err
		b.changed.Broadcast()
	}
}

// discard has the buffer take everything from now on. It reports whether more
// could have come.
func (b *buffer) discard() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.nobody && !b.ended
	b.nobody, b.data, b.off = true, nil, 0
	b.changed.Broadcast()
	return first
}
