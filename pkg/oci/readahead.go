package oci

import "io"

// readAhead reads from another goroutine, so that decompressing a layer and
// digesting and writing it take two processors.
type readAhead struct {
	full chan []byte
	free chan []byte
	quit chan struct{}
	done chan struct{}
	err  error // of the source; valid once full is closed
	cur  []byte
	buf  []byte // that cur is part of
}

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{
		full: make(chan []byte, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

func (a *readAhead) fill(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.quit:
			return
		}
		n := 0
		for n < len(b) && a.err == nil {
			var k int
			k, a.err = r.Read(b[n:])
			n += k
		}
		a.full <- b[:n] // there are no more buffers than places
		if a.err != nil {
			return
		}
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.buf != nil {
			a.free <- a.buf[:cap(a.buf)]
			a.buf = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.cur, a.buf = b, b
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close stops reading ahead and returns when the source is no longer used.
func (a *readAhead) Close() {
	close(a.quit)
	<-a.done
}
