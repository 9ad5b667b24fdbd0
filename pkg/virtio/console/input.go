package console

import (
	"io"
	"sync"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// input holds what the host typed until the guest takes it.
type input struct {
	mu     sync.Mutex
	room   sync.Cond // on mu: there is room again, or closed
	buf    []byte    // fixed capacity
	closed bool
}

func newInput(size int) *input {
	in := &input{buf: make([]byte, 0, size)}
	in.room.L = &in.mu
	return in
}

// write appends all of p, as room comes up, and calls ring after each piece, with
// mu held: never after close.
func (in *input) write(p []byte, ring func()) (int, error) {
	done := 0
	for done < len(p) {
		n, err := in.writeSome(p[done:], ring)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (in *input) writeSome(p []byte, ring func()) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.buf) == cap(in.buf) && !in.closed {
		in.room.Wait()
	}
	if in.closed {
		return 0, io.ErrClosedPipe
	}
	n := min(len(p), cap(in.buf)-len(in.buf))
	in.buf = append(in.buf, p[:n]...)
	ring()
	return n, nil
}

func (in *input) empty() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.buf) == 0
}

// read moves bytes to a guest's buffers and returns how many.
func (in *input) read(v [][]byte) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := queue.Scatter(v, in.buf)
	in.buf = in.buf[:copy(in.buf, in.buf[n:])]
	in.room.Broadcast()
	return n
}

// drop forgets what was not taken.
func (in *input) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.buf = in.buf[:0]
	in.room.Broadcast()
}

func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.room.Broadcast()
}
