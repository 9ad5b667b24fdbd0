package blk

import "github.com/anthropics/boxlite/pkg/virtio/queue"

// cursor is a position in a vector of buffers, none of which is empty.
type cursor struct {
	v    [][]byte
	skip int // bytes of v[0] that are behind
}

// left is the number of bytes ahead.
func (c *cursor) left() int { return queue.Len(c.v) - c.skip }

// next returns the buffer ahead, at most n bytes of it.
func (c *cursor) next(n int) []byte {
	b := c.v[0][c.skip:]
	return b[:min(n, len(b))]
}

// advance moves n bytes on, which must be ahead.
func (c *cursor) advance(n int) {
	n += c.skip
	for len(c.v) > 0 && n >= len(c.v[0]) {
		n -= len(c.v[0])
		c.v = c.v[1:]
	}
	c.skip = n
}

// zero fills the next n bytes with zeroes and moves on.
func (c *cursor) zero(n int) {
	for n > 0 {
		b := c.next(n)
		clear(b)
		c.advance(len(b))
		n -= len(b)
	}
}
