package queue

// Len is the number of bytes in a vector of buffers.
func Len(v [][]byte) int {
	n := 0
	for _, b := range v {
		n += len(b)
	}
	return n
}

// Gather copies from the start of src to dst and returns the number of bytes,
// the smaller of both lengths.
func Gather(dst []byte, src [][]byte) int { return GatherAt(dst, src, 0) }

// GatherAt is Gather without the first off bytes of src, which it leaves alone where
// Skip would change it.
func GatherAt(dst []byte, src [][]byte, off int) int {
	n := 0
	for _, b := range src {
		if n == len(dst) {
			break
		}
		if off >= len(b) {
			off -= len(b)
			continue
		}
		n += copy(dst[n:], b[off:])
		off = 0
	}
	return n
}

// Scatter copies src to the start of dst and returns the number of bytes, the
// smaller of both lengths.
func Scatter(dst [][]byte, src []byte) int {
	n := 0
	for _, b := range dst {
		if n == len(src) {
			break
		}
		n += copy(b, src[n:])
	}
	return n
}

// Skip returns v without its first n bytes, or empty if it has fewer. It
// changes the first buffer that stays in place.
func Skip(v [][]byte, n int) [][]byte {
	for len(v) > 0 {
		if n < len(v[0]) {
			v[0] = v[0][n:]
			return v
		}
		n -= len(v[0])
		v = v[1:]
	}
	return v
}

// Prefix returns the first n bytes of v, or all of it if it has fewer. It changes
// the last buffer that stays in place.
func Prefix(v [][]byte, n int) [][]byte {
	for i, b := range v {
		if n <= len(b) {
			if n == 0 {
				return v[:i]
			}
			v[i] = b[:n]
			return v[:i+1]
		}
		n -= len(b)
	}
	return v
}
