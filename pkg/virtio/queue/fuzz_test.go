package queue_test

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// FuzzQueue makes random calls on a queue over random descriptors. Whatever
// comes out is in RAM, bounded, and in flight once; used elements are exactly
// what was pushed.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte("\x00\x00\x10\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x03\x03"))
	mem := virtiotest.NewMemory(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		u8 := func() (v byte) {
			if len(p) > 0 {
				v, p = p[0], p[1:]
			}
			return v
		}
		u64 := func() uint64 {
			var b [8]byte
			p = p[copy(b[:], p):]
			return binary.LittleEndian.Uint64(b[:])
		}
		size := uint16(1) << (u8() % 6)
		r, err := virtiotest.NewRing(mem, ringAt, size)
		if err != nil {
			t.Fatal(err)
		}
		cfg := r.Config()
		flags := u8()
		cfg.EventIdx, cfg.Indirect = flags&1 != 0, flags&2 != 0
		q, err := queue.New(mem, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var c queue.Chain
		flying := map[uint16]bool{}
		var pushed []virtiotest.Used
		for len(p) > 0 {
			switch u8() % 8 {
			case 0:
				r.SetDesc(uint16(u8())%size, raw(guestmem.GPA(u64()), uint32(u64()), uint16(u8()&7), uint16(u8())))
			case 1: // one that is likely to be legal
				r.SetDesc(uint16(u8())%size, raw(dataAt+guestmem.GPA(u8()), uint32(u8())*16, uint16(u8()&7), uint16(u8())%size))
			case 2:
				r.Submit(uint16(u8()))
			case 3:
				ok, err := q.Pop(&c)
				if e := (*queue.Error)(nil); err != nil && (ok || !errors.As(err, &e)) {
					t.Fatalf("Pop: %t, %v", ok, err)
				}
				if !ok {
					continue
				}
				check(t, mem, size, &c, flying)
				flying[c.Head] = true
			case 4:
				head := uint16(u8())
				if err := q.Push(head, uint32(head)); (err == nil) != flying[head] && q.State().Broken == nil {
					t.Fatalf("Push of %d: %v, in flight: %t", head, err, flying[head])
				} else if err == nil {
					delete(flying, head)
					pushed = append(pushed, virtiotest.Used{Head: head, Len: uint32(head)})
				}
			case 5:
				q.NeedInterrupt()
				r.SetUsedEvent(uint16(u64()))
			case 6:
				q.DisableNotify()
				_, _ = q.EnableNotify() // an error shows again in Pop
			case 7:
				s := q.State()
				if q, err = queue.Restore(mem, s); err != nil {
					t.Fatalf("Restore of %+v: %v", s, err)
				}
			}
		}
		if n := q.InFlight(); n != len(flying) {
			t.Fatalf("%d in flight, not %d", n, len(flying))
		}
		if len(pushed) <= int(size) {
			for _, want := range pushed {
				if got, ok := r.Reap(); !ok || got != want {
					t.Fatalf("used: %v %t, not %v", got, ok, want)
				}
			}
		}
	})
}

func check(t *testing.T, mem *guestmem.Memory, size uint16, c *queue.Chain, flying map[uint16]bool) {
	t.Helper()
	if c.Head >= size || flying[c.Head] {
		t.Fatalf("head %d of %d, in flight: %t", c.Head, size, flying[c.Head])
	}
	if n := len(c.Readable) + len(c.Writable); n > 2*int(size) {
		t.Fatalf("%d buffers in a queue of %d", n, size)
	}
	if n := c.ReadableLen() + c.WritableLen(); n > math.MaxUint32 {
		t.Fatalf("%d bytes", n)
	}
	for _, v := range [][][]byte{c.Readable, c.Writable} {
		for _, b := range v {
			if len(b) == 0 || !inRAM(mem, b) {
				t.Fatalf("%d bytes that are not RAM", len(b))
			}
		}
	}
}
