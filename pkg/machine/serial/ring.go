package serial

// ring is a bounded queue of bytes.
type ring struct {
	buf     []byte
	from, n int
}

func newRing(size int) ring { return ring{buf: make([]byte, size)} }

func (r *ring) len() int  { return r.n }
func (r *ring) free() int { return len(r.buf) - r.n }
func (r *ring) clear()    { r.from, r.n = 0, 0 }

// put appends what fits and returns how much that was.
func (r *ring) put(p []byte) int {
	p = p[:min(len(p), r.free())]
	to := (r.from + r.n) % len(r.buf)
	k := copy(r.buf[to:], p)
	copy(r.buf, p[k:])
	r.n += len(p)
	return len(p)
}

func (r *ring) putByte(c byte) bool {
	if r.free() == 0 {
		return false
	}
	r.buf[(r.from+r.n)%len(r.buf)] = c
	r.n++
	return true
}

// get takes what is there, up to len(p).
func (r *ring) get(p []byte) int {
	p = p[:min(len(p), r.n)]
	k := copy(p, r.buf[r.from:])
	copy(p[k:], r.buf)
	r.from = (r.from + len(p)) % len(r.buf)
	r.n -= len(p)
	return len(p)
}
