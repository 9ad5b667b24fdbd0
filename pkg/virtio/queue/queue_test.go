package queue_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const (
	ringAt = 0x1000
	dataAt = 0x100000
)

// pair is both ends of a queue.
func pair(t testing.TB, size uint16, eventIdx bool) (*guestmem.Memory, *virtiotest.Ring, *queue.Queue) {
	t.Helper()
	mem := virtiotest.NewMemory(t)
	r, q := pairIn(t, mem, size, eventIdx)
	return mem, r, q
}

func pairIn(t testing.TB, mem *guestmem.Memory, size uint16, eventIdx bool) (*virtiotest.Ring, *queue.Queue) {
	t.Helper()
	r, err := virtiotest.NewRing(mem, ringAt, size)
	require.NoError(t, err)
	r.EventIdx = eventIdx
	q, err := queue.New(mem, r.Config())
	require.NoError(t, err)
	return r, q
}

func read(at guestmem.GPA, n uint32) virtiotest.Buf { return virtiotest.Buf{Addr: at, Len: n} }
func write(at guestmem.GPA, n uint32) virtiotest.Buf {
	return virtiotest.Buf{Addr: at, Len: n, Write: true}
}

// pop wants a chain.
func pop(t testing.TB, q *queue.Queue, c *queue.Chain) {
	t.Helper()
	ok, err := q.Pop(c)
	require.NoError(t, err)
	require.True(t, ok)
}

// refuse wants the queue to break, with the section that is broken, for good.
func refuse(t testing.TB, q *queue.Queue, section string) {
	t.Helper()
	var c queue.Chain
	for range 3 {
		ok, err := q.Pop(&c)
		require.False(t, ok)
		var e *queue.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, section, e.Section, "%v", err)
	}
	_, err := q.EnableNotify()
	require.Error(t, err)
	require.Error(t, q.Push(0, 0))
	require.False(t, q.NeedInterrupt())
}

func TestChainsArriveAsTheyWereMade(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		mem, r, q := pair(t, 16, false)
		var c queue.Chain
		ok, err := q.Pop(&c)
		require.NoError(t, err)
		require.False(t, ok, "empty")
		for i := range 1000 {
			bufs := []virtiotest.Buf{read(dataAt, 10), read(dataAt+100, 1), write(dataAt+200, 7), write(dataAt+300, 20)}[i%3:]
			if i%4 == 3 {
				bufs = bufs[:len(bufs)-1]
			}
			var head uint16
			if indirect {
				head = r.AddIndirect(mem, dataAt+0x1000, bufs...)
			} else {
				head = r.Add(bufs...)
			}
			pop(t, q, &c)
			require.Equal(t, head, c.Head)
			var got []virtiotest.Buf
			for _, b := range c.Readable {
				got = append(got, read(addr(t, mem, b), uint32(len(b))))
			}
			for _, b := range c.Writable {
				got = append(got, write(addr(t, mem, b), uint32(len(b))))
			}
			require.Equal(t, bufs, got)
			require.Equal(t, 1, q.InFlight())
			require.NoError(t, q.Push(head, uint32(i)))
			u, ok := r.Reap()
			require.True(t, ok)
			require.Equal(t, virtiotest.Used{Head: head, Len: uint32(i)}, u)
			// What a device does to its slices must not shrink the next chain.
			c.Readable, c.Writable = queue.Skip(c.Readable, 11), queue.Prefix(c.Writable, 1)
		}
		require.Equal(t, 0, q.InFlight())
		require.Equal(t, 16, r.Free())
	}
}

// addr finds where in guest RAM a slice is.
func addr(t testing.TB, mem *guestmem.Memory, b []byte) guestmem.GPA {
	t.Helper()
	at, ok := find(mem, b)
	require.True(t, ok, "slice is not guest RAM")
	return at
}

// find does the same, and reports whether all of the slice is in one region.
func find(mem *guestmem.Memory, b []byte) (guestmem.GPA, bool) {
	p := reflect.ValueOf(b).Pointer()
	for _, r := range mem.Regions() {
		off := p - reflect.ValueOf(r.Bytes).Pointer()
		if n := uintptr(len(r.Bytes)); off < n && uintptr(len(b)) <= n-off {
			return r.Base + guestmem.GPA(off), true
		}
	}
	return 0, false
}

func TestPushOutOfOrderAndTwice(t *testing.T) {
	_, r, q := pair(t, 8, false)
	var c queue.Chain
	for range 4 {
		r.Add(read(dataAt, 1))
		pop(t, q, &c)
	}
	for _, head := range []uint16{2, 0, 3, 1} {
		require.NoError(t, q.Push(head, 0))
		require.ErrorIs(t, q.Push(head, 0), queue.ErrHead)
	}
	require.ErrorIs(t, q.Push(7, 0), queue.ErrHead)
	require.ErrorIs(t, q.Push(8, 0), queue.ErrHead)
	require.ErrorIs(t, q.Push(0xffff, 0), queue.ErrHead)
	for _, head := range []uint16{2, 0, 3, 1} {
		u, ok := r.Reap()
		require.True(t, ok)
		require.Equal(t, head, u.Head)
	}
}

func TestPushAll(t *testing.T) {
	_, r, q := pair(t, 16, false)
	var c queue.Chain
	for range 100 {
		var done []queue.Used
		for i := range 3 {
			head := r.Add(write(dataAt, 100))
			pop(t, q, &c)
			require.Equal(t, head, c.Head)
			done = append(done, queue.Used{Head: head, Written: uint32(i)})
		}
		require.NoError(t, q.PushAll(done))
		require.Zero(t, q.InFlight())
		for _, d := range done {
			u, ok := r.Reap()
			require.True(t, ok)
			require.Equal(t, virtiotest.Used{Head: d.Head, Len: d.Written}, u)
		}
		require.True(t, q.NeedInterrupt())
	}
	require.NoError(t, q.PushAll(nil))
	require.False(t, q.NeedInterrupt())

	head := r.Add(write(dataAt, 100))
	pop(t, q, &c)
	twice := []queue.Used{{Head: head}, {Head: head}}
	require.ErrorIs(t, q.PushAll(twice), queue.ErrHead)
	_, ok := r.Reap()
	require.True(t, ok, "what came before was given back")
	require.ErrorIs(t, q.PushAll(twice), queue.ErrHead)
	_, ok = r.Reap()
	require.False(t, ok)
	require.ErrorIs(t, q.PushAll([]queue.Used{{Head: 16}}), queue.ErrHead)
}

func TestInterruptSuppressionByFlag(t *testing.T) {
	_, r, q := pair(t, 8, false)
	var c queue.Chain
	give := func() {
		r.Add(read(dataAt, 1))
		pop(t, q, &c)
		require.NoError(t, q.Push(c.Head, 0))
		r.Reap()
	}
	require.False(t, q.NeedInterrupt(), "nothing was pushed")
	give()
	require.True(t, q.NeedInterrupt())
	require.False(t, q.NeedInterrupt(), "once")
	r.RefuseInterrupts()
	give()
	require.False(t, q.NeedInterrupt())
	r.WantInterrupt()
	give()
	require.True(t, q.NeedInterrupt())

	q.DisableNotify()
	require.False(t, r.NeedKick())
	more, err := q.EnableNotify()
	require.NoError(t, err)
	require.False(t, more)
	require.True(t, r.NeedKick())
	r.Add(read(dataAt, 1))
	more, err = q.EnableNotify()
	require.NoError(t, err)
	require.True(t, more)
}

// TestEventIndex compares NeedInterrupt with the formula of §2.7.7.1 in a wider
// type, over several turns of the indices.
func TestEventIndex(t *testing.T) {
	_, r, q := pair(t, 64, true)
	rnd := rand.New(rand.NewPCG(1, 2))
	var c queue.Chain
	used := uint64(0)
	for used < 300_000 {
		n := uint64(1 + rnd.Uint32N(64))
		for range n {
			r.Add(read(dataAt, 1))
			pop(t, q, &c)
			require.NoError(t, q.Push(c.Head, 0))
			r.Reap()
		}
		// The driver asks to hear of element number event.
		event := used + uint64(rnd.Uint32N(128)) - 64
		r.SetUsedEvent(uint16(event))
		used += n
		old := used - n
		require.Equal(t, event >= old && event < used, q.NeedInterrupt(), "event %d, used %d to %d", event, old, used)
	}
}

func TestAvailEventAsksForTheNextChain(t *testing.T) {
	_, r, q := pair(t, 8, true)
	var c queue.Chain
	for i := range uint16(20) {
		more, err := q.EnableNotify()
		require.NoError(t, err)
		require.False(t, more)
		require.Equal(t, i, r.AvailEvent())
		r.Add(read(dataAt, 1))
		require.True(t, r.NeedKick())
		q.DisableNotify()
		more, err = q.EnableNotify()
		require.NoError(t, err)
		require.True(t, more)
		pop(t, q, &c)
		require.NoError(t, q.Push(c.Head, 0))
		r.Reap()
	}
}

// TestNeedInterruptAfterMorePushesThanIndices: 2^16 pushes look like none.
func TestNeedInterruptAfterMorePushesThanIndices(t *testing.T) {
	_, r, q := pair(t, 8, true)
	var c queue.Chain
	for range 1 << 16 {
		r.Add(read(dataAt, 1))
		pop(t, q, &c)
		require.NoError(t, q.Push(c.Head, 0))
		r.Reap()
	}
	require.True(t, q.NeedInterrupt())
}

func TestStateSurvives(t *testing.T) {
	mem, r, q := pair(t, 16, true)
	var c queue.Chain
	for range 5 {
		r.Add(read(dataAt, 4))
		pop(t, q, &c)
	}
	require.NoError(t, q.Push(1, 0))
	r.Add(read(dataAt+64, 9)) // not popped
	s := q.State()
	require.Equal(t, []uint16{0, 2, 3, 4}, s.InFlight)
	q2, err := queue.Restore(mem, s)
	require.NoError(t, err)
	require.Equal(t, s, q2.State())
	require.Equal(t, 4, q2.InFlight())
	require.True(t, q2.NeedInterrupt(), "the push before")
	pop(t, q2, &c)
	require.Equal(t, 9, c.ReadableLen())
	require.NoError(t, q2.Push(2, 0))
	require.ErrorIs(t, q2.Push(1, 0), queue.ErrHead)

	s.InFlight = []uint16{16}
	_, err = queue.Restore(mem, s)
	require.Error(t, err)
	s.InFlight = []uint16{1, 1}
	_, err = queue.Restore(mem, s)
	require.Error(t, err)
	s.InFlight, s.Size = nil, 3
	_, err = queue.Restore(mem, s)
	require.Error(t, err)
}

func TestVectors(t *testing.T) {
	v := func() [][]byte { return [][]byte{[]byte("ab"), []byte("cde"), []byte("f")} }
	require.Equal(t, 6, queue.Len(v()))
	for n := range 9 {
		want := "abcdef"[:min(n, 6)]
		got := make([]byte, n)
		require.Equal(t, len(want), queue.Gather(got, v()))
		require.Equal(t, want, string(got[:len(want)]))

		require.Equal(t, "abcdef"[len(want):], flat(queue.Skip(v(), n)))
		require.Equal(t, want, flat(queue.Prefix(v(), n)))

		dst := v()
		require.Equal(t, min(n, 6), queue.Scatter(dst, []byte("uvwxyz01")[:n]))
		require.Equal(t, "uvwxyz"[:min(n, 6)]+"abcdef"[min(n, 6):], flat(dst))
	}
}

func flat(v [][]byte) (s string) {
	for _, b := range v {
		if len(b) == 0 {
			return "a buffer is empty"
		}
		s += string(b)
	}
	return s
}

func TestNoAllocations(t *testing.T) {
	mem, r, q := pair(t, 64, true)
	var c queue.Chain
	bufs := []virtiotest.Buf{read(dataAt, 16), write(dataAt+64, 4096), write(dataAt+8192, 1)}
	for _, indirect := range []bool{false, true} {
		virtiotest.NoAllocations(t, func() {
			for range 8 {
				if indirect {
					r.AddIndirect(mem, dataAt+0x10000, bufs...)
				} else {
					r.Add(bufs...)
				}
			}
			q.DisableNotify()
			for {
				ok, err := q.Pop(&c)
				if err != nil {
					t.Error(err)
				}
				if !ok {
					break
				}
				if err := q.Push(c.Head, 1); err != nil {
					t.Error(err)
				}
				r.Reap()
			}
			q.NeedInterrupt()
			if _, err := q.EnableNotify(); err != nil {
				t.Error(err)
			}
		})
	}
}

func BenchmarkPopPush(b *testing.B) {
	for _, n := range []int{1, 3, 16} {
		for _, indirect := range []bool{false, true} {
			b.Run(fmt.Sprintf("buffers=%d/indirect=%t", n, indirect), func(b *testing.B) {
				mem, r, q := pair(b, 128, true)
				var bufs []virtiotest.Buf
				for i := range n {
					bufs = append(bufs, virtiotest.Buf{Addr: dataAt + guestmem.GPA(i)*4096, Len: 4096, Write: i > 0})
				}
				var c queue.Chain
				b.ReportAllocs()
				for b.Loop() { // both ends' work
					if indirect {
						r.AddIndirect(mem, dataAt+0x100000, bufs...)
					} else {
						r.Add(bufs...)
					}
					if ok, err := q.Pop(&c); !ok || err != nil {
						b.Fatal(ok, err)
					}
					if err := q.Push(c.Head, 1); err != nil {
						b.Fatal(err)
					}
					q.NeedInterrupt()
					r.Reap()
				}
			})
		}
	}
}
