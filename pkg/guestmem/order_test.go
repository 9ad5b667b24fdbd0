package guestmem

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCell16(t *testing.T) {
	m := newMemory(t, Range{testBase, 1 << 16})
	c, err := m.Cell16(testBase + 2)
	require.NoError(t, err)
	for _, v := range []uint16{0, 1, 0x8000, 0xfffe, 0xffff, 0x1234} {
		c.Store(v)
		require.Equal(t, v, c.Load())
		got := make([]byte, 6)
		require.NoError(t, m.Read(got, testBase))
		require.Equal(t, []byte{0, 0, byte(v), byte(v >> 8), 0, 0}, got, "little-endian, and nothing beside it")
		w, err := m.LoadUint16(testBase + 2)
		require.NoError(t, err)
		require.Equal(t, v, w)
	}
	require.NoError(t, m.StoreUint16(testBase+1<<16-2, 7))

	_, err = m.Cell16(testBase + 1)
	require.ErrorContains(t, err, "odd address")
	for _, at := range []GPA{testBase - 2, testBase - 1, testBase + 1<<16 - 1, testBase + 1<<16, 1<<64 - 1, 1<<64 - 2} {
		_, err = m.Cell16(at)
		require.ErrorIs(t, err, ErrOutside, "%v", at)
		_, err = m.LoadUint16(at)
		require.ErrorIs(t, err, ErrOutside)
		require.ErrorIs(t, m.StoreUint16(at, 1), ErrOutside)
	}
}

// One side writes a record and then its number, the other reads the number and
// then the record: release and acquire make the record whole. Neighbouring
// words belong to the other side and must survive.
func TestCell16Publishes(t *testing.T) {
	m := newMemory(t, Range{0, 1 << 16})
	number, err := m.Cell16(2)
	require.NoError(t, err)
	echo, err := m.Cell16(4) // beside it, written by the reader
	require.NoError(t, err)
	record, err := m.Slice(4096, 8*8)
	require.NoError(t, err)
	words := make([]*uint64, 8)
	for i := range words {
		words[i] = pointer64(record[8*i:])
	}

	const rounds = 20_000
	var wg sync.WaitGroup
	wg.Go(func() {
		for v := 1; v <= rounds; v++ {
			for _, w := range words {
				*w = uint64(v)
			}
			number.Store(uint16(v))
			for echo.Load() != uint16(v) {
				runtime.Gosched()
			}
		}
	})
	for v := 1; v <= rounds; v++ {
		for number.Load() != uint16(v) {
			runtime.Gosched()
		}
		for i, w := range words {
			if *w != uint64(v) {
				t.Fatalf("round %d: word %d is %d", v, i, *w)
			}
		}
		echo.Store(uint16(v))
	}
	wg.Wait()
}

// Dekker's handshake, which is the one between a ring's index and its event
// index: each side stores its own word, fences, and loads the other's. Without
// the fence both may see the old value.
func TestFenceOrdersStoreAgainstLoad(t *testing.T) {
	m := newMemory(t, Range{0, 1 << 16})
	x, err := m.Cell16(0)
	require.NoError(t, err)
	y, err := m.Cell16(128)
	require.NoError(t, err)
	const rounds = 50_000
	var sawX, sawY uint16
	var ready, done atomic.Int32
	await := func(v *atomic.Int32, want int32) {
		for i := 0; v.Load() != want; i++ {
			if i > 1000 { // the other side is not running
				runtime.Gosched()
			}
		}
	}
	side := func(own, other Cell16, saw *uint16) {
		for r := int32(1); r <= rounds; r++ {
			await(&ready, r)
			own.Store(1)
			Fence()
			*saw = other.Load()
			done.Add(1)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { side(y, x, &sawX) })
	// This side starts each round itself, so that two processors are enough
	// for both stores to meet.
	for r := int32(1); r <= rounds; r++ {
		x.Store(0)
		y.Store(0)
		done.Store(0)
		ready.Store(r)
		x.Store(1)
		Fence()
		sawY = y.Load()
		await(&done, 1)
		if sawX == 0 && sawY == 0 {
			t.Fatalf("round %d: both sides missed the other's store", r)
		}
	}
	wg.Wait()
}
