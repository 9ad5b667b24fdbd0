package netstack

import (
	"sync"
	"sync/atomic"
)

const (
	// A ring begins with firstRing and grows to maxRing, which is what a connection can
	// have under way. All of them together have ringTotal; beyond that each has minRing.
	minRing   = 4 << 10
	firstRing = 16 << 10
	maxRing   = 1 << 20
	ringTotal = 64 << 20

	ringGrowth = 4 // from one size to the next
)

// ringPools hold what rings gave back, by size: minRing, firstRing and so on.
var ringPools [5]sync.Pool // of *ringBlock

type ringBlock struct {
	b    []byte
	pool *sync.Pool
}

// ringMemory is what the rings of a network have.
type ringMemory struct{ used atomic.Int64 }

func (m *ringMemory) take(size int) *ringBlock {
	if m.used.Add(int64(size)) > ringTotal && size > minRing {
		m.used.Add(-int64(size))
		return nil
	}
	i := 0
	for s := minRing; s < size; s *= ringGrowth {
		i++
	}
	if b, ok := ringPools[i].Get().(*ringBlock); ok {
		return b
	}
	return &ringBlock{make([]byte, size), &ringPools[i]}
}

func (m *ringMemory) give(b *ringBlock) {
	m.used.Add(-int64(len(b.b)))
	b.pool.Put(b)
}

// ring holds bytes in order. It has memory only while it holds some. The zero value is
// an empty one. It is not for several goroutines at once.
type ring struct {
	block *ringBlock // nil for none; its size is a power of two
	head  int        // where the oldest byte is
	n     int
	peak  int // of n, since there is a block
	begin int // size to begin with, 0 for firstRing
}

func (r *ring) size() int {
	if r.block == nil {
		return 0
	}
	return len(r.block.b)
}

// space is where the next bytes go, in up to two pieces; none when the ring is full and
// may not grow. Whoever fills some calls added or release.
func (r *ring) space(m *ringMemory) (a, b []byte) {
	size := r.size()
	if r.n == size {
		if !r.grow(m) {
			return nil, nil
		}
		size = r.size()
	}
	at := (r.head + r.n) & (size - 1)
	if at >= r.head && r.n < size {
		return r.block.b[at:], r.block.b[:r.head]
	}
	return r.block.b[at:r.head], nil
}

func (r *ring) grow(m *ringMemory) bool {
	if r.block == nil {
		if r.block = m.take(max(r.begin, firstRing)); r.block == nil {
			r.block = m.take(minRing)
		}
		return true
	}
	size := r.size()
	if size == maxRing {
		return false
	}
	next := m.take(size * ringGrowth)
	if next == nil {
		return false
	}
	a, b := r.slices(0, r.n)
	copy(next.b[copy(next.b, a):], b)
	m.give(r.block)
	r.block, r.head = next, 0
	return true
}

// added notes that the next n bytes are in space.
func (r *ring) added(n int) {
	r.n += n
	r.peak = max(r.peak, r.n)
}

// slices are n bytes from the off-th on, in up to two pieces.
func (r *ring) slices(off, n int) (a, b []byte) {
	if n == 0 {
		return nil, nil
	}
	size := r.size()
	at := (r.head + off) & (size - 1)
	if at+n <= size {
		return r.block.b[at : at+n], nil
	}
	return r.block.b[at:], r.block.b[:at+n-size]
}

// drop forgets the n oldest bytes.
func (r *ring) drop(m *ringMemory, n int) {
	if n == 0 {
		return
	}
	r.n -= n
	r.head = (r.head + n) & (r.size() - 1)
	if r.n == 0 {
		r.release(m)
	}
}

// release gives back the memory of an empty ring. The next begins with a size that
// suits what this one held.
func (r *ring) release(m *ringMemory) {
	if r.block == nil || r.n > 0 {
		return
	}
	if r.begin = r.size(); r.peak <= r.begin/ringGrowth {
		r.begin /= ringGrowth
	}
	m.give(r.block)
	r.block, r.head, r.peak = nil, 0, 0
}

// clear forgets everything.
func (r *ring) clear(m *ringMemory) {
	r.n = 0
	r.release(m)
}
