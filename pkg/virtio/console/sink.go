package console

import (
	"io"
	"sync"
	"time"
)

const (
	chunk     = 16 << 10    // bytes of one Write to the sink
	closeWait = time.Second // how long Close waits for a sink that takes nothing
)

// sink passes bytes on to a writer of any speed without ever waiting for it: a
// ring buffer keeps the newest and drops the oldest.
type sink struct {
	out  io.Writer
	done chan struct{} // closed when the goroutine has returned

	mu      sync.Mutex
	more    sync.Cond // on mu: there are bytes, or closed
	ring    []byte
	start   int // of the oldest byte
	n       int // bytes kept
	dropped uint64
	closed  bool
}

func newSink(out io.Writer, size int) *sink {
	s := &sink{out: out, done: make(chan struct{}), ring: make([]byte, size)}
	s.more.L = &s.mu
	go s.run()
	return s
}

// put takes all of p, at once.
func (s *sink) put(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if over := len(p) - len(s.ring); over > 0 {
		s.dropped += uint64(over)
		p = p[over:]
	}
	if over := s.n + len(p) - len(s.ring); over > 0 {
		s.dropped += uint64(over)
		s.start = (s.start + over) % len(s.ring)
		s.n -= over
	}
	end := (s.start + s.n) % len(s.ring)
	k := copy(s.ring[end:], p)
	copy(s.ring, p[k:])
	s.n += len(p)
	s.more.Signal()
}

// lose counts bytes that were never put.
func (s *sink) lose(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped += uint64(n)
}

// take waits for bytes and moves some to p; 0 means closed and empty.
func (s *sink) take(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n == 0 && !s.closed {
		s.more.Wait()
	}
	n := min(len(p), s.n)
	k := copy(p[:n], s.ring[s.start:])
	copy(p[k:n], s.ring)
	s.start = (s.start + n) % len(s.ring)
	s.n -= n
	return n
}

func (s *sink) run() {
	defer close(s.done)
	p := make([]byte, chunk)
	for out := s.out; ; {
		n := s.take(p)
		if n == 0 {
			return
		}
		if out == nil {
			s.lose(n)
			continue
		}
		if _, err := out.Write(p[:n]); err != nil {
			out = nil // a reader that is gone does not come back
			s.lose(n)
		}
	}
}

// close lets the sink take what is left, but waits only a while for it.
func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	s.more.Signal()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(closeWait):
	}
}

func (s *sink) droppedBytes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}
