package mmio_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// The numbers are those of the project's list of hostile guests. Every device
// runs the same cases through virtiotest's hostile suite.

var suite = virtiotest.Suite{
	New: func(testing.TB) virtio.Device { return echo() },
	Exercise: func(d *virtiotest.Driver) {
		in, out := d.Put([]byte("ping")), d.Alloc(8)
		require.EqualValues(d.T, 4, d.Do(0, virtiotest.Buf{Addr: in, Len: 4}, virtiotest.Buf{Addr: out, Len: 8, Write: true}))
		require.Equal(d.T, "ping", string(d.Bytes(out, 4)))
	},
}

func TestHostile11RingPlacement(t *testing.T) { suite.HostileCase(t, 11) }
func TestHostile12QueueSize(t *testing.T)     { suite.HostileCase(t, 12) }
func TestHostile13QueueSelect(t *testing.T)   { suite.HostileCase(t, 13) }
func TestHostile14StatusMachine(t *testing.T) { suite.HostileCase(t, 14) }
func TestHostile17NotifyStorm(t *testing.T)   { suite.HostileCase(t, 17) }
func TestHostile18OddAccesses(t *testing.T)   { suite.HostileCase(t, 18) }

// TestHostile18AccessesFromManyCPUs does everything to one device from several
// threads at once.
func TestHostile18AccessesFromManyCPUs(t *testing.T) {
	dev := &probe{Echo: echo()}
	mem := virtiotest.NewMemory(t)
	var lines atomic.Int64
	tr := mmio.New(dev, mem, mmio.Config{Interrupt: func() {}, Log: func(string, ...any) { lines.Add(1) }})
	var cpus sync.WaitGroup
	for cpu := range uint64(4) {
		cpus.Go(func() {
			rnd := rand.New(rand.NewPCG(cpu, 18))
			for range 20_000 {
				randomAccess(rnd, tr)
			}
		})
	}
	cpus.Wait()
	require.Less(t, lines.Load(), int64(200))
	require.NoError(t, tr.Close())
}

// randomAccess is a register access that is likely to matter.
func randomAccess(rnd *rand.Rand, r virtiotest.Registers) {
	var p [4]byte
	write := func(off uint64, v uint32) {
		binary.LittleEndian.PutUint32(p[:], v)
		r.WriteMMIO(off, p[:])
	}
	switch rnd.Uint32N(8) {
	case 0:
		write(virtiotest.RegStatus, []uint32{0, 1, 3, 11, 15, 128}[rnd.Uint32N(6)])
	case 1:
		write(virtiotest.RegQueueNotify, rnd.Uint32N(4))
	case 2:
		write(virtiotest.RegQueueSel, rnd.Uint32N(3))
		write(virtiotest.RegQueueDesc, 0x10000*(1+rnd.Uint32N(8)))
		write(virtiotest.RegQueueDriver, 0x100000*(1+rnd.Uint32N(8)))
		write(virtiotest.RegQueueDevice, 0x200000*(1+rnd.Uint32N(8)))
		write(virtiotest.RegQueueReady, 1)
	case 3:
		write(virtiotest.RegDriverSel, 1)
		write(virtiotest.RegDriverFeatures, 1)
	case 4:
		write(rnd.Uint64N(0x110), rnd.Uint32())
	case 5:
		r.ReadMMIO(rnd.Uint64N(0x1010), make([]byte, 1+rnd.Uint32N(8)))
	default:
		// All of a driver's start in one go, so that it gets there now and then.
		for _, v := range []uint32{0, 1, 3} {
			write(virtiotest.RegStatus, v)
		}
		write(virtiotest.RegDriverSel, 1)
		write(virtiotest.RegDriverFeatures, 1)
		write(virtiotest.RegStatus, 11)
		write(virtiotest.RegStatus, 15)
		write(virtiotest.RegQueueNotify, 0)
	}
}

// TestHostile19UnassignedRegisters reads what is not there: zeroes within the
// window's control registers, and nothing happens to what is written. Pages
// without a device are the machine's.
func TestHostile19UnassignedRegisters(t *testing.T) {
	d := virtiotest.Attach(t, echo())
	d.Up(ring)
	known := map[uint64]bool{}
	for _, off := range []uint64{
		0x000, 0x004, 0x008, 0x00c, 0x010, 0x034, 0x044, 0x060, 0x070, 0x0b0, 0x0b4, 0x0b8, 0x0bc, 0x0fc,
	} {
		known[off] = true
	}
	before := d.Transport.Counters()
	for off := uint64(0); off < virtiotest.RegConfig; off += 4 {
		if known[off] {
			continue
		}
		require.Zero(t, d.Read(off), "register %#x", off)
	}
	for _, off := range []uint64{0x018, 0x01c, 0x028, 0x03c, 0x054, 0x068, 0x074, 0x0c4, 0x0f8, 0, 4, 8, 0xfc} {
		d.Write(off, 0xffffffff)
	}
	for _, off := range []uint64{mmio.Size, mmio.Size + 4, 1 << 20, 1 << 32, math.MaxUint64 - 3} {
		require.Zero(t, d.Read(off))
		d.Write(off, 0)
	}
	require.Equal(t, before, d.Transport.Counters(), "none of it counts")
	require.Empty(t, d.Logged())
	suite.Exercise(d)
}

func TestHostile22ConfigBeyondEnd(t *testing.T) {
	d := virtiotest.Attach(t, echo())
	d.Regs.WriteMMIO(virtiotest.RegConfig, bytes.Repeat([]byte{0xaa}, 4000))
	for off := uint64(0); off < 0x2000; off += 3 {
		for n := range 17 {
			want := make([]byte, n)
			for i := range want {
				if off+uint64(i) < 8 {
					want[i] = 0xaa
				}
			}
			require.Equal(t, want, d.Config(off, n), "%d bytes at %d", n, off)
		}
	}
	require.Zero(t, d.Config(math.MaxUint32-virtiotest.RegConfig, 1)[0])
	require.Zero(t, d.Config(math.MaxUint32, 1)[0], "the offset must not be cut to 32 bits")
}

// TestHostile57LogAmplification makes every kind of mistake a hundred thousand times.
func TestHostile57LogAmplification(t *testing.T) {
	d := virtiotest.Attach(t, echo())
	mistakes := map[string]func(){
		"access":   func() { d.Regs.WriteMMIO(virtiotest.RegStatus, []byte{1}) },
		"notify":   func() { d.Write(virtiotest.RegQueueNotify, 99) },
		"status":   func() { d.Write(virtiotest.RegStatus, 15); d.Write(virtiotest.RegStatus, 2) },
		"features": func() { d.Write(virtiotest.RegDriverFeatures, 99) },
		"queue":    func() { d.Write(virtiotest.RegQueueSel, 99); d.Write(virtiotest.RegQueueSize, 99) },
		"frozen":   func() { d.Write(virtiotest.RegQueueSel, 0); d.Write(virtiotest.RegQueueSize, 99) },
	}
	for name, mistake := range mistakes {
		d.Up(0)
		before := d.Transport.Counters().DriverErrors
		for range 100_000 {
			mistake()
		}
		require.GreaterOrEqual(t, d.Transport.Counters().DriverErrors-before, uint64(100_000), "%s: all are counted", name)
	}
	for range 10_000 { // the one that needs a restart each time
		d.Negotiate(0)
		d.PlaceQueue(0, 3, 0, 0, 0)
	}
	lines := d.Logged()
	require.NotEmpty(t, lines)
	require.Less(t, len(lines), 150, "of %d mistakes", len(mistakes)*100_000)
	for _, l := range lines {
		require.Less(t, len(l), 300)
		require.True(t, strings.HasPrefix(l, "virtio: "), l)
	}
	d.Up(0)
	suite.Exercise(d)
}

// FuzzTransport is a driver made of register accesses alone, with rings in RAM
// that the fuzzer filled.
func FuzzTransport(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03"), []byte{0x70, 0, 0, 0x70, 1, 0, 0x70, 3, 0, 0x24, 1, 0, 0x20, 1, 0, 0x70, 11, 0, 0x70, 15, 0, 0x50, 0, 0})
	f.Add(bytes.Repeat([]byte{1, 0}, 64), []byte{0x70, 1, 0, 0x70, 3, 0, 0x24, 1, 0, 0x20, 1, 0, 0x70, 11, 0,
		0x38, 8, 0, 0x80, 0, 0x10, 0x90, 0, 0x20, 0xa0, 0, 0x30, 0x44, 1, 0, 0x70, 15, 0, 0x50, 0, 0})
	mem := virtiotest.NewMemory(f)
	f.Fuzz(func(t *testing.T, ram, program []byte) {
		low, err := mem.Slice(0, 1<<16)
		require.NoError(t, err)
		clear(low)
		copy(low[0x1000:], ram)
		interrupts := 0
		tr := mmio.New(echo(), mem, mmio.Config{Interrupt: func() { interrupts++ }, Log: func(f string, a ...any) { _ = fmt.Sprintf(f, a...) }})
		var p [8]byte
		for len(program) >= 3 {
			off, v := uint64(program[0]), uint32(program[1])|uint32(program[2])<<8
			program = program[3:]
			n := 4
			if off%4 != 0 { // odd offsets stand for odd accesses
				n = int(v % 9)
			}
			binary.LittleEndian.PutUint32(p[:], v)
			tr.WriteMMIO(off, p[:n])
			tr.ReadMMIO(off, p[:n])
		}
		status := func() uint32 {
			tr.ReadMMIO(virtiotest.RegStatus, p[:4])
			return binary.LittleEndian.Uint32(p[:])
		}
		if s := status(); s&virtiotest.StatusDriverOK != 0 && s&virtiotest.StatusFeaturesOK == 0 {
			t.Fatalf("status %#x", s)
		}
		if c := tr.Counters(); c.Interrupts != uint64(interrupts) || c.HostErrors != 0 {
			t.Fatalf("%+v with %d interrupts", c, interrupts)
		}
		require.NoError(t, tr.Close())
		if s := status(); s&^virtiotest.StatusNeedsReset != 0 {
			t.Fatalf("status %#x after Close", s)
		}
	})
}
