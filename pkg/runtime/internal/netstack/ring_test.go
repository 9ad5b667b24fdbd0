package netstack

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRing compares with a buffer that is simple.
func TestRing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var m ringMemory
	var r ring
	var want []byte
	next := byte(0)
	sizes := map[int]bool{}
	for range 5000 {
		if rnd.IntN(3) > 0 {
			a, b := r.space(&m)
			require.Equal(t, r.size(), r.n+len(a)+len(b))
			n := rnd.IntN(min(len(a)+len(b), 1+rnd.IntN(800_000)) + 1)
			for i := range n {
				if i < len(a) {
					a[i] = next
				} else {
					b[i-len(a)] = next
				}
				want = append(want, next)
				next++
			}
			r.added(n)
			r.release(&m)
		} else {
			n := rnd.IntN(r.n + 1)
			if rnd.IntN(8) == 0 {
				n = r.n
			}
			r.drop(&m, n)
			want = want[n:]
		}
		require.Equal(t, len(want), r.n)
		require.EqualValues(t, r.size(), m.used.Load())
		sizes[r.size()] = true
		if r.n > 0 {
			off := rnd.IntN(r.n)
			n := rnd.IntN(r.n - off + 1)
			a, b := r.slices(off, n)
			require.True(t, bytes.Equal(want[off:off+n], append(bytes.Clone(a), b...)))
		}
	}
	require.True(t, sizes[0] && sizes[firstRing] && sizes[maxRing], "%v", sizes)
	r.clear(&m)
	require.Zero(t, m.used.Load())
}

// TestRingFull has no ring grow beyond its limit.
func TestRingFull(t *testing.T) {
	var m ringMemory
	var r ring
	for a, _ := r.space(&m); len(a) > 0; a, _ = r.space(&m) {
		r.added(len(a))
	}
	require.Equal(t, maxRing, r.n)
	r.drop(&m, 1)
	a, b := r.space(&m)
	require.Equal(t, 1, len(a)+len(b))
}

// TestRingMemory has rings stay small when there are many, and have some all the same.
func TestRingMemory(t *testing.T) {
	var m ringMemory
	rings := make([]ring, 2*ringTotal/maxRing)
	small := 0
	for i := range rings {
		for a, _ := rings[i].space(&m); len(a) > 0; a, _ = rings[i].space(&m) {
			rings[i].added(len(a))
		}
		require.GreaterOrEqual(t, rings[i].n, minRing)
		if rings[i].n == minRing {
			small++
		}
	}
	require.NotZero(t, small)
	require.LessOrEqual(t, m.used.Load(), int64(ringTotal+len(rings)*minRing))
	for i := range rings {
		rings[i].clear(&m)
	}
	require.Zero(t, m.used.Load())
}

// TestRingBegins has a ring begin with what the one before held.
func TestRingBegins(t *testing.T) {
	var m ringMemory
	var r ring
	fill := func(n int) (size int) {
		for r.n < n {
			a, _ := r.space(&m)
			if size == 0 {
				size = r.size()
			}
			r.added(min(len(a), n-r.n))
		}
		r.drop(&m, n)
		return size
	}
	require.Equal(t, firstRing, fill(100_000))
	require.Equal(t, 256<<10, fill(100_000))
	require.Equal(t, 256<<10, fill(100))
	require.Equal(t, 64<<10, fill(100))
	require.Equal(t, firstRing, fill(100))
	require.Equal(t, firstRing, fill(100))
}
