package guestmem

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// testBase is a multiple of every host's page size.
const testBase = 1 << 20

func newMemory(t testing.TB, ranges ...Range) *Memory {
	t.Helper()
	m, err := New(ranges...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		ranges []Range
		err    string
	}{
		{"nothing", nil, "0 bytes of RAM in 0 regions"},
		{"empty", []Range{{0, 0}}, "is not whole pages"},
		{"half a page", []Range{{0, 2048}}, "is not whole pages"},
		{"crooked base", []Range{{1, 4096}}, "is not whole pages"},
		{"overlap", []Range{{0, 8192}, {4096, 4096}}, "region 1 at 0x1000 overlaps or precedes"},
		{"descending", []Range{{1 << 20, 4096}, {0, 4096}}, "overlaps or precedes"},
		{"wraps", []Range{{math.MaxUint64 - 4095, 8192}}, "ends beyond the address space"},
		{"half the address space", []Range{{0, 1 << 63}}, "ends beyond the address space"},
		{"too much in sum", []Range{{0, 1<<62 + 4096}, {1 << 63, 1 << 62}}, "bytes of RAM in 2 regions"},
	} {
		m, err := New(c.ranges...)
		require.ErrorContains(t, err, c.err, c.name)
		require.Nil(t, m, c.name)
	}
}

// Near the end of the address space sums wrap; a region up to the very end is refused for that.
func TestLastRegion(t *testing.T) {
	const size = 1 << 16
	const last = math.MaxUint64 - size // its last byte
	m := newMemory(t, Range{last - size + 1, size})
	_, err := m.Slice(last, 1)
	require.NoError(t, err)
	for _, n := range []int{2, size, size + 1, size + 2, math.MaxInt} {
		_, err = m.Slice(last, n)
		require.ErrorIs(t, err, ErrOutside, "%d", n)
		require.False(t, m.Contains(last, uint64(n)))
	}
	require.False(t, m.Contains(last, math.MaxUint64))
	require.NoError(t, m.Write([]byte{1}, last))
	require.ErrorIs(t, m.Write([]byte{1, 2}, last), ErrOutside)
	require.ErrorIs(t, m.Read(make([]byte, 4*size), last), ErrOutside)
	_, err = New(Range{last + 1, size})
	require.ErrorContains(t, err, "ends beyond the address space")
}

func TestBounds(t *testing.T) {
	const size = 1 << 16
	m := newMemory(t, Range{testBase, size}, Range{testBase + 2*size, size})
	for _, c := range []struct {
		at GPA
		n  int
		ok bool
	}{
		{testBase, 0, true},
		{testBase, 1, true},
		{testBase, size, true},
		{testBase + size - 1, 1, true},
		{testBase + size - 1, 0, true},
		{testBase + 2*size, size, true},

		{testBase, size + 1, false},     // end of region
		{testBase + size - 1, 2, false}, // one past
		{testBase + size, 0, false},     // the hole begins
		{testBase + size, 1, false},
		{testBase - 1, 1, false}, // just below
		{testBase - 1, 2, false},
		{testBase, 2*size + 1, false}, // over the hole
		{testBase + 3*size, 1, false},
		{0, 1, false},
		{0, math.MaxInt, false},
		{testBase, -1, false}, // negative
		{testBase, math.MinInt, false},
		{testBase, math.MaxInt, false},
		{math.MaxUint64, 1, false},
		{math.MaxUint64, 2, false}, // wraps to 0
		{math.MaxUint64 - 4095, 4096 + testBase + 1, false},
		{1<<63 + testBase, 1, false},
	} {
		b, err := m.Slice(c.at, c.n)
		if !c.ok {
			require.ErrorIs(t, err, ErrOutside, "%v+%d", c.at, c.n)
			require.Nil(t, b)
		} else {
			require.NoError(t, err, "%v+%d", c.at, c.n)
			require.Len(t, b, c.n)
			require.Equal(t, c.n, cap(b), "no spare capacity")
		}
		if c.n >= 0 {
			require.Equal(t, c.ok, m.Contains(c.at, uint64(c.n)), "Contains(%v, %d)", c.at, c.n)
		}
		if c.n > 0 && c.n < 1<<20 {
			require.Equal(t, c.ok, m.Read(make([]byte, c.n), c.at) == nil, "Read(%v, %d)", c.at, c.n)
			require.Equal(t, c.ok, m.Write(make([]byte, c.n), c.at) == nil, "Write(%v, %d)", c.at, c.n)
		}
	}
	require.Nil(t, Region{}.Slice(0, 0))
	require.False(t, m.Contains(testBase, math.MaxUint64))
	require.False(t, m.Contains(testBase+1, math.MaxUint64))
	require.NoError(t, m.Read(nil, 0), "nothing to read")
	require.EqualValues(t, 2*size, m.Size())
}

func TestReadWriteCrossRegions(t *testing.T) {
	const size = 1 << 16
	m := newMemory(t, Range{0, size}, Range{size, size}, Range{3 * size, size})
	data := make([]byte, size+100)
	for i := range data {
		data[i] = byte(i) | 1
	}
	require.NoError(t, m.Write(data, 50))
	got := make([]byte, len(data))
	require.NoError(t, m.Read(got, 50))
	require.True(t, bytes.Equal(data, got))
	_, err := m.Slice(50, len(data))
	require.ErrorIs(t, err, ErrOutside, "a slice stays in its region")
	require.False(t, m.Contains(50, uint64(len(data))))

	// A write that ends in the hole changes nothing.
	before := make([]byte, 2*size)
	require.NoError(t, m.Read(before, 0))
	require.ErrorIs(t, m.Write(make([]byte, size), size+1), ErrOutside)
	after := make([]byte, 2*size)
	require.NoError(t, m.Read(after, 0))
	require.True(t, bytes.Equal(before, after))
	require.ErrorContains(t, m.Write(make([]byte, size), size+1), fmt.Sprintf("guestmem: %d bytes at 0x10001: outside guest RAM", size))
}

func TestSliceAliases(t *testing.T) {
	m := newMemory(t, Range{0, 1 << 16})
	a, err := m.Slice(100, 10)
	require.NoError(t, err)
	copy(a, "0123456789")
	got := make([]byte, 10)
	require.NoError(t, m.Read(got, 100))
	require.Equal(t, "0123456789", string(got))
	_ = append(a, 'x') // must go to a new array
	require.NoError(t, m.Read(got[:1], 110))
	require.Zero(t, got[0])
}

func TestCloseTwice(t *testing.T) {
	m, err := New(Range{0, 1 << 16})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err = m.Slice(0, 1)
	require.ErrorIs(t, err, ErrOutside)
	require.Empty(t, m.Regions())
}

func TestNoAllocations(t *testing.T) {
	m := newMemory(t, Range{0, 1 << 16}, Range{1 << 20, 1 << 16})
	p := make([]byte, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = m.Slice(1<<20, 64)
		_ = m.Read(p, 1<<20)
		_ = m.Write(p, 1<<20)
		_, _ = m.LoadUint16(2)
		_ = m.StoreUint16(2, 7)
	}))
}

// FuzzAccess checks every way into RAM against a model with plain arithmetic in
// more bits than the code has.
func FuzzAccess(f *testing.F) {
	f.Add(uint64(testBase), int64(1), byte(7))
	f.Add(uint64(math.MaxUint64), int64(2), byte(7))
	f.Add(uint64(testBase+1<<16-1), int64(2), byte(7))
	f.Add(uint64(0), int64(math.MinInt64), byte(7))
	const size = 1 << 16
	regions := []Range{{testBase, size}, {testBase + size, size}, {testBase + 4*size, size}, {math.MaxUint64 - 2*size + 1, size}}
	m := newMemory(f, regions...)
	f.Fuzz(func(t *testing.T, at uint64, n int64, c byte) {
		within, reachable := false, n >= 0
		for _, r := range regions {
			off := at - uint64(r.Base)
			if at >= uint64(r.Base) && off < size {
				within = n >= 0 && uint64(n) <= size-off
			}
		}
		if n > 0 && n <= 4*size { // byte by byte
			for i := uint64(0); i < uint64(n) && reachable; i += 97 {
				reachable = at+i >= at && contains(regions, at+i)
			}
			last := at + uint64(n) - 1
			reachable = reachable && last >= at && contains(regions, last) && !spansHole(at, last)
		}
		b, err := m.Slice(GPA(at), int(n))
		if (err == nil) != within || err != nil && !errors.Is(err, ErrOutside) {
			t.Fatalf("Slice(%#x, %d): %v, want %v", at, n, err, within)
		}
		if n >= 0 && m.Contains(GPA(at), uint64(n)) != within {
			t.Fatalf("Contains(%#x, %d)", at, n)
		}
		if err == nil && (len(b) != int(n) || cap(b) != int(n)) {
			t.Fatalf("Slice(%#x, %d) has %d of %d bytes", at, n, len(b), cap(b))
		}
		if n <= 0 || n > 4*size {
			return
		}
		p := bytes.Repeat([]byte{c}, int(n))
		if err := m.Write(p, GPA(at)); (err == nil) != reachable {
			t.Fatalf("Write(%#x, %d): %v, want %v", at, n, err, reachable)
		}
		got := make([]byte, n)
		if err := m.Read(got, GPA(at)); (err == nil) != reachable {
			t.Fatalf("Read(%#x, %d): %v, want %v", at, n, err, reachable)
		}
		if reachable && !bytes.Equal(p, got) {
			t.Fatalf("read back at %#x differs", at)
		}
	})
}

func contains(regions []Range, at uint64) bool {
	for _, r := range regions {
		if at >= uint64(r.Base) && at-uint64(r.Base) < r.Size {
			return true
		}
	}
	return false
}

// spansHole knows the one hole between regions that a short access can span.
func spansHole(first, last uint64) bool {
	const size = 1 << 16
	return first < testBase+2*size && last >= testBase+4*size
}
