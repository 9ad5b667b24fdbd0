package queue_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// The numbers are those of the project's list of hostile guests. What they do to
// whole devices is in virtiotest's hostile suite.

type desc = virtiotest.Desc

func raw(addr guestmem.GPA, n uint32, flags, next uint16) desc {
	return desc{Addr: addr, Len: n, Flags: flags, Next: next}
}

const (
	next     = virtiotest.DescNext
	writable = virtiotest.DescWrite
	indirect = virtiotest.DescIndirect
)

// table writes an indirect table at dataAt and returns the descriptor for it.
func table(t testing.TB, mem *guestmem.Memory, descs ...desc) desc {
	t.Helper()
	b, err := mem.Slice(dataAt, 16*len(descs))
	require.NoError(t, err)
	for i, d := range descs {
		p := b[16*i:]
		binary.LittleEndian.PutUint64(p[0:], uint64(d.Addr))
		binary.LittleEndian.PutUint32(p[8:], d.Len)
		binary.LittleEndian.PutUint16(p[12:], d.Flags)
		binary.LittleEndian.PutUint16(p[14:], d.Next)
	}
	return desc{Addr: dataAt, Len: uint32(16 * len(descs)), Flags: indirect}
}

// submit makes a chain of raw descriptors available, the first at index 0.
func submit(r *virtiotest.Ring, descs ...desc) {
	for i, d := range descs {
		r.SetDesc(uint16(i), d)
	}
	r.Submit(0)
}

// cases runs each chain on a fresh queue of 8 and wants it refused.
func cases(t *testing.T, section string, chains map[string]func(mem *guestmem.Memory, r *virtiotest.Ring)) {
	for name, make := range chains {
		t.Run(name, func(t *testing.T) {
			mem, r, q := pair(t, 8, false)
			make(mem, r)
			refuse(t, q, section)
		})
	}
}

func TestHostile01ChainLoops(t *testing.T) {
	cases(t, "2.7.5.2", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"to itself": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(dataAt, 1, next, 0)) },
		"empty":     func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(dataAt, 0, next, 0)) },
		"of three": func(_ *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, raw(dataAt, 1, next, 1), raw(dataAt, 1, next, 2), raw(dataAt, 1, next, 0))
		},
		"in a table": func(mem *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, table(t, mem, raw(dataAt, 1, next, 1), raw(dataAt, 1, next, 0)))
		},
	})
}

func TestHostile02NextOutOfRange(t *testing.T) {
	cases(t, "2.7.5", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"8":     func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(dataAt, 1, next, 8)) },
		"65535": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(dataAt, 1, next, 65535)) },
		"table": func(mem *guestmem.Memory, r *virtiotest.Ring) { submit(r, table(t, mem, raw(dataAt, 1, next, 1))) },
	})
	cases(t, "2.7.6", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"head 8":     func(_ *guestmem.Memory, r *virtiotest.Ring) { r.Submit(8) },
		"head 65535": func(_ *guestmem.Memory, r *virtiotest.Ring) { r.Submit(65535) },
	})
}

// bad wants an address range refused as buffer of both directions, and as table.
func bad(t *testing.T, name string, at guestmem.GPA, n uint32) {
	cases(t, "2.7.5", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		name + " readable": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(at, n, 0, 0)) },
		name + " writable": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(at, n, writable, 0)) },
		name + " second": func(_ *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, raw(dataAt, 1, next, 1), raw(at, n, 0, 0))
		},
	})
	cases(t, "2.7.5.3", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		name + " table": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(at, 128, indirect, 0)) },
	})
}

func TestHostile03AddressOutsideRAM(t *testing.T) {
	const end, high = virtiotest.LowBase + virtiotest.LowSize, virtiotest.HighBase
	bad(t, "in the hole", end, 128)
	bad(t, "over the end", end-1, 2)
	bad(t, "before a region", high-1, 2)
	bad(t, "across regions", end-64, high-end+128)
	bad(t, "beyond RAM", high+virtiotest.HighSize, 1)
	bad(t, "top", math.MaxUint64, 1)

	// The last byte of a region is RAM.
	_, r, q := pair(t, 8, false)
	submit(r, raw(end-1, 1, 0, 0))
	var c queue.Chain
	pop(t, q, &c)
	require.Equal(t, 1, c.ReadableLen())
}

func TestHostile04LengthOverflow(t *testing.T) {
	bad(t, "wraps", math.MaxUint64-63, 128)
	cases(t, "2.7.5", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"4 GiB less one": func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(0, math.MaxUint32, 0, 0)) },
		"2 GiB":          func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(0, 1<<31, writable, 0)) },
	})
	// 16 MiB at a time until the sum passes 2^32: 256 fit, 257 do not.
	for _, n := range []int{255, 256} {
		_, r, q := pair(t, 512, false)
		chain := make([]desc, n)
		for i := range chain {
			chain[i] = raw(0, virtiotest.LowSize, next|writable, uint16(i+1))
		}
		chain[n-1].Flags = writable
		submit(r, chain...)
		if n == 256 {
			refuse(t, q, "2.7.5.2")
			continue
		}
		var c queue.Chain
		pop(t, q, &c)
		require.Equal(t, 255*virtiotest.LowSize, c.WritableLen())
	}
}

func TestHostile05EmptyDescriptors(t *testing.T) {
	_, r, q := pair(t, 8, false)
	for i := range uint16(7) {
		r.SetDesc(i, raw(math.MaxUint64, 0, next, i+1))
	}
	r.SetDesc(7, raw(0, 0, 0, 0))
	var c queue.Chain
	for range 1000 {
		r.Submit(0)
		pop(t, q, &c)
		require.Empty(t, c.Readable)
		require.Empty(t, c.Writable)
		require.NoError(t, q.Push(0, 0))
	}
	r.SetDesc(7, raw(0, 0, next, 0))
	r.Submit(0)
	refuse(t, q, "2.7.5.2")
}

func TestHostile06WrongDirection(t *testing.T) {
	cases(t, "2.7.4.2", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"readable last": func(_ *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, raw(dataAt, 1, next|writable, 1), raw(dataAt, 1, 0, 0))
		},
		"readable between": func(_ *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, raw(dataAt, 1, next|writable, 1), raw(dataAt, 1, next, 2), raw(dataAt, 1, writable, 0))
		},
		"in a table": func(mem *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, table(t, mem, raw(dataAt, 1, next|writable, 1), raw(dataAt, 1, 0, 0)))
		},
		"before a table": func(mem *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, raw(dataAt, 1, next|writable, 1), table(t, mem, raw(dataAt, 1, 0, 0)))
		},
	})
}

func TestHostile07IndirectTable(t *testing.T) {
	one := func(n uint32, flags uint16) func(*guestmem.Memory, *virtiotest.Ring) {
		return func(_ *guestmem.Memory, r *virtiotest.Ring) { submit(r, raw(dataAt, n, indirect|flags, 1)) }
	}
	cases(t, "2.7.5.3.1", map[string]func(*guestmem.Memory, *virtiotest.Ring){
		"empty":                 one(0, 0),
		"15 bytes":              one(15, 0),
		"17 bytes":              one(17, 0),
		"larger than the queue": one(9*16, 0),
		"65535 entries":         one(65535*16, 0),
		"4 GiB":                 one(math.MaxUint32&^15, 0),
		"with next":             one(16, next),
		"nested": func(mem *guestmem.Memory, r *virtiotest.Ring) {
			submit(r, table(t, mem, raw(dataAt, 16, indirect, 0)))
		},
	})
	t.Run("not negotiated", func(t *testing.T) {
		mem, r, _ := pair(t, 8, false)
		cfg := r.Config()
		cfg.Indirect = false
		q, err := queue.New(mem, cfg)
		require.NoError(t, err)
		submit(r, table(t, mem, raw(dataAt, 1, 0, 0)))
		refuse(t, q, "2.7.5.3.1")
	})
	t.Run("after direct ones, the longest legal chain", func(t *testing.T) {
		mem, r, q := pair(t, 8, false)
		entries := make([]desc, 8)
		for i := range entries {
			entries[i] = raw(dataAt, 1, next, uint16(i+1))
		}
		entries[7].Flags = 0
		chain := make([]desc, 8)
		for i := range chain {
			chain[i] = raw(dataAt, 1, next, uint16(i+1))
		}
		chain[7] = table(t, mem, entries...)
		chain[7].Flags |= writable // §2.7.5.3.2: ignored
		submit(r, chain...)
		var c queue.Chain
		pop(t, q, &c)
		require.Len(t, c.Readable, 15)
	})
}

func TestHostile08AvailIndexJumps(t *testing.T) {
	for _, by := range []uint16{9, 0x8000, 0xffff} {
		_, r, q := pair(t, 8, false)
		r.SetAvailIdx(by)
		refuse(t, q, "2.7.6")
		_, r, q = pair(t, 8, true)
		r.SetAvailIdx(by)
		_, err := q.EnableNotify()
		require.Error(t, err)
		refuse(t, q, "2.7.6")
	}
}

// TestHostile09RingRewrittenAfterCheck pops while a driver rewrites rings and
// descriptors as fast as it can. Whatever comes out was checked: it is RAM, and
// within the bounds that hold for chains.
func TestHostile09RingRewrittenAfterCheck(t *testing.T) {
	mem := virtiotest.NewMemory(t)
	for seed := range uint64(200) {
		r, q := pairIn(t, mem, 16, seed%2 == 0)
		stop := make(chan struct{})
		var driver sync.WaitGroup
		driver.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 9))
			for {
				select {
				case <-stop:
					return
				default:
				}
				scribble(rnd, r)
			}
		})
		var c queue.Chain
		for range 200 {
			ok, err := q.Pop(&c)
			if err != nil {
				break
			}
			if !ok {
				continue
			}
			require.LessOrEqual(t, len(c.Readable)+len(c.Writable), 32)
			require.LessOrEqual(t, c.ReadableLen()+c.WritableLen(), math.MaxUint32)
			for _, b := range c.Readable {
				require.NotEmpty(t, b)
				require.True(t, inRAM(mem, b))
				_ = b[0] + b[len(b)-1]
			}
			for _, b := range c.Writable {
				require.NotEmpty(t, b)
				require.True(t, inRAM(mem, b))
				b[len(b)-1]++
			}
			require.NoError(t, q.Push(c.Head, 0))
			q.NeedInterrupt()
		}
		close(stop)
		driver.Wait()
	}
}

// scribble changes one thing, more often than not to something legal.
func scribble(rnd *rand.Rand, r *virtiotest.Ring) {
	d := raw(dataAt+guestmem.GPA(rnd.Uint32N(1<<16)), 1+rnd.Uint32N(64), uint16(rnd.Uint32N(4)), uint16(rnd.Uint32N(16)))
	switch rnd.Uint32N(32) {
	case 0:
		d.Addr = guestmem.GPA(rnd.Uint64())
	case 1:
		d.Len = rnd.Uint32()
	case 2:
		d.Flags, d.Len = indirect, 16*(1+rnd.Uint32N(16))
	}
	i := uint16(rnd.Uint32N(16))
	r.SetDesc(i, d)
	r.SetAvail(i, uint16(rnd.Uint32N(16)))
	if rnd.Uint32N(4) == 0 {
		r.SetAvailIdx(r.AvailIdx() + 1)
	}
}

func inRAM(mem *guestmem.Memory, b []byte) bool {
	_, ok := find(mem, b)
	return ok
}

func TestHostile10SameHeadTwice(t *testing.T) {
	_, r, q := pair(t, 8, false)
	r.SetDesc(0, raw(dataAt, 64, writable, 0))
	r.Submit(0)
	r.Submit(0)
	var c queue.Chain
	pop(t, q, &c)
	refuse(t, q, "2.7.13")

	// One after the other is fine.
	_, r, q = pair(t, 8, false)
	r.SetDesc(0, raw(dataAt, 64, writable, 0))
	for range 100 {
		r.Submit(0)
		pop(t, q, &c)
		require.NoError(t, q.Push(0, 0))
	}
}

func TestHostile11RingPlacement(t *testing.T) {
	mem := virtiotest.NewMemory(t)
	good := queue.Config{Size: 8, Desc: 0x1000, Avail: 0x2000, Used: 0x3000}
	_, err := queue.New(mem, good)
	require.NoError(t, err)
	for name, change := range map[string]func(c *queue.Config){
		"desc unaligned":        func(c *queue.Config) { c.Desc += 8 },
		"avail unaligned":       func(c *queue.Config) { c.Avail++ },
		"used unaligned":        func(c *queue.Config) { c.Used += 2 },
		"desc over end":         func(c *queue.Config) { c.Desc = virtiotest.LowSize - 7*16 },
		"avail over end":        func(c *queue.Config) { c.Avail = virtiotest.LowSize - 6 - 14 },
		"used over end":         func(c *queue.Config) { c.Used = virtiotest.LowSize - 68 },
		"desc in hole":          func(c *queue.Config) { c.Desc = virtiotest.LowSize },
		"avail wraps":           func(c *queue.Config) { c.Avail = math.MaxUint64 - 1 },
		"used wraps":            func(c *queue.Config) { c.Used = math.MaxUint64 - 3 },
		"avail in desc":         func(c *queue.Config) { c.Avail = c.Desc + 7*16 + 14 },
		"desc in avail":         func(c *queue.Config) { c.Desc = c.Avail + 16 },
		"used in avail":         func(c *queue.Config) { c.Used = c.Avail + 20 },
		"avail in used":         func(c *queue.Config) { c.Avail = c.Used + 68 },
		"used in desc":          func(c *queue.Config) { c.Used = c.Desc },
		"across two regions":    func(c *queue.Config) { c.Desc = virtiotest.HighBase - 64 },
		"at the last byte":      func(c *queue.Config) { c.Used = virtiotest.HighBase + virtiotest.HighSize - 4 },
		"far beyond everything": func(c *queue.Config) { c.Desc = 1 << 52 },
	} {
		c := good
		change(&c)
		_, err := queue.New(mem, c)
		var e *queue.Error
		require.ErrorAs(t, err, &e, name)
	}
	for name, change := range map[string]func(c *queue.Config){
		"avail right after desc": func(c *queue.Config) { c.Avail = c.Desc + 8*16 },
		"used right after avail": func(c *queue.Config) { c.Used = c.Avail + 24 },
		"used at the very end":   func(c *queue.Config) { c.Used = virtiotest.LowSize - 72 },
	} {
		c := good
		change(&c)
		_, err := queue.New(mem, c)
		require.NoError(t, err, name)
	}
}

func TestHostile12QueueSize(t *testing.T) {
	mem := virtiotest.NewMemory(t)
	for _, size := range []uint16{0, 3, 5, 127, 32769, 65535} {
		_, err := queue.New(mem, queue.Config{Size: size, Desc: 0x100000, Avail: 0x200000, Used: 0x300000})
		require.Error(t, err, "%d", size)
	}
	for size := uint16(1); size != 0; size <<= 1 {
		_, err := queue.New(mem, queue.Config{Size: size, Desc: 0x100000, Avail: 0x200000, Used: 0x300000})
		require.NoError(t, err, "%d", size)
	}
}
