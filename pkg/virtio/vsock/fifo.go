package vsock

// fifo holds the bytes that a slow reader has not taken yet: a ring that starts
// small, since most of what waits is one message, and grows once to its limit.
// The zero value is empty and owns no memory.
type fifo struct {
	buf  []byte
	from int // first byte
	n    int // bytes held
}

// smallFifo is the first size of a fifo's memory, in bytes.
const smallFifo = 4 << 10

func (f *fifo) empty() bool { return f.n == 0 }

// fits reports whether the memory at hand takes n more bytes.
func (f *fifo) fits(n int) bool { return len(f.buf)-f.n >= n }

// move changes the memory, which must be large enough, and returns the old one.
func (f *fifo) move(to []byte) (old []byte) {
	a, b := f.spans()
	copy(to[copy(to, a):], b)
	old, f.buf, f.from = f.buf, to, 0
	return old
}

// write appends p, for which there must be room.
func (f *fifo) write(p []byte) {
	at := f.from + f.n
	if at >= len(f.buf) {
		at -= len(f.buf)
	}
	m := copy(f.buf[at:], p)
	copy(f.buf, p[m:])
	f.n += len(p)
}

// spans returns what is held, in order.
func (f *fifo) spans() (a, b []byte) {
	end := f.from + f.n
	if end <= len(f.buf) {
		return f.buf[f.from:end], nil
	}
	return f.buf[f.from:], f.buf[:end-len(f.buf)]
}

// skip drops n bytes from the front.
func (f *fifo) skip(n int) {
	f.n -= n
	f.from += n
	if f.from >= len(f.buf) {
		f.from -= len(f.buf)
	}
	if f.n == 0 {
		f.from = 0
	}
}

// read moves bytes to p and returns how many.
func (f *fifo) read(p []byte) int {
	a, b := f.spans()
	n := copy(p, a)
	n += copy(p[n:], b)
	f.skip(n)
	return n
}

// spareBuffers is how many whole receive buffers a device keeps for reuse.
const spareBuffers = 4

// hold appends payload to c's fifo. Credit bounds what it holds to Config.Buffer.
func (d *Device) hold(c *Conn, payload [][]byte, n int) {
	if !c.in.fits(n) {
		var b []byte
		switch spares := len(d.spare); {
		case c.in.n+n <= smallFifo:
			b = make([]byte, smallFifo)
		case spares > 0:
			b, d.spare = d.spare[spares-1], d.spare[:spares-1]
		default:
			b = make([]byte, d.cfg.Buffer)
		}
		c.in.move(b)
	}
	for _, p := range payload {
		c.in.write(p)
	}
}

// drained gives the memory of c's empty fifo back, unless it is small.
func (d *Device) drained(c *Conn) {
	if c.in.n == 0 && len(c.in.buf) > smallFifo {
		if len(d.spare) < spareBuffers {
			d.spare = append(d.spare, c.in.buf)
		}
		c.in = fifo{}
	}
}
