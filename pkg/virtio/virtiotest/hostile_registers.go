package virtiotest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
)

// ringPlacement offers rings where none may be. The device must not start.
func (s Suite) ringPlacement(t *testing.T) {
	d := Attach(t, s.New(t))
	const desc, avail, used = 0x10000, 0x20000, 0x30000
	for q, size := range d.dev.QueueSizes() {
		n := guestmem.GPA(size)
		for name, p := range map[string][3]guestmem.GPA{
			"descriptor table is unaligned":      {desc + 8, avail, used},
			"available ring is unaligned":        {desc, avail + 1, used},
			"used ring is unaligned":             {desc, avail, used + 2},
			"descriptor table over end":          {LowSize - 16*n + 16, avail, used},
			"available ring over end":            {desc, LowSize - 4, used},
			"used ring over end":                 {desc, avail, LowSize - 8},
			"descriptor table in the hole":       {0xd000_0000, avail, used},
			"available ring in the hole":         {desc, 0xd000_0000, used},
			"used ring in the hole":              {desc, avail, 0xd000_0000},
			"descriptor table wraps":             {math.MaxUint64 &^ 15, avail, used},
			"available ring wraps":               {desc, math.MaxUint64 - 1, used},
			"used ring wraps":                    {desc, avail, math.MaxUint64 - 3},
			"all at one place":                   {desc, desc, desc},
			"available ring in descriptor table": {desc, desc + 16*n - 2, used},
			"used ring in descriptor table":      {desc, avail, desc + 16*n - 4},
			"used ring in available ring":        {desc, avail, avail + 4},
			"available ring in used ring":        {desc, used + 4, used},
		} {
			d.Negotiate(0)
			d.PlaceQueue(q, uint32(size), p[0], p[1], p[2])
			require.Zero(t, d.Read(RegQueueReady), "queue %d: %s", q, name)
			require.True(t, d.NeedsReset(), "queue %d: %s", q, name)
			d.Start()
			d.Write(RegQueueNotify, uint32(q))
		}
	}
	d.Up(allRing)
	s.exercise(d)
}

// queueSize offers impossible sizes, and changes them after the start.
func (s Suite) queueSize(t *testing.T) {
	d := Attach(t, s.New(t))
	for q, most := range d.dev.QueueSizes() {
		for _, size := range []uint32{0, 3, 65535, 65536, 65536 + uint32(most), 2 * uint32(most), math.MaxUint32} {
			d.Negotiate(0)
			d.PlaceQueue(q, size, 0x100000, 0x200000, 0x300000)
			require.Zero(t, d.Read(RegQueueReady), "queue %d of %d", q, size)
			require.True(t, d.NeedsReset(), "queue %d of %d", q, size)
		}
	}
	d.Up(allRing)
	before := d.Transport.Counters().DriverErrors
	for q := range d.Rings {
		d.PlaceQueue(q, 32768, 0x100000, 0x200000, 0x300000) // CVE-2026-5747
		d.Write(RegQueueReady, 0)
		require.EqualValues(t, 1, d.Read(RegQueueReady))
	}
	require.Greater(t, d.Transport.Counters().DriverErrors, before)
	s.exercise(d)
}

// queueSelect accesses everything with a queue selected that is not there.
func (s Suite) queueSelect(t *testing.T) {
	d := Attach(t, s.New(t))
	d.Negotiate(0)
	for _, sel := range []uint32{uint32(len(d.dev.QueueSizes())), 0xffff, math.MaxUint32} {
		for off := uint64(RegQueueSizeMax); off <= RegQueueDevice+4; off += 4 {
			if off == RegStatus {
				continue
			}
			d.Write(RegQueueSel, sel)
			if off != RegInterrupt {
				d.Write(off, 1)
			}
			require.Zero(t, d.Read(off), "register %#x of queue %#x", off, sel)
		}
	}
	require.False(t, d.NeedsReset())
	d.Up(allRing)
	s.exercise(d)
}

// statusMachine breaks the order of §3.1.1 in every way.
func (s Suite) statusMachine(t *testing.T) {
	const ack, driver, features, ok = StatusAcknowledge, StatusDriver, StatusFeaturesOK, StatusDriverOK
	d := Attach(t, s.New(t))
	accept := func(f virtio.Features) {
		d.Reset()
		d.Write(RegStatus, ack)
		d.Write(RegStatus, ack|driver)
		for i := range uint32(2) {
			d.Write(RegDriverSel, i)
			d.Write(RegDriverFeatures, uint32(f>>(32*i)))
		}
		d.Write(RegStatus, ack|driver|features)
	}
	offered := d.Offered()
	for bit := range 64 {
		f := virtio.Features(1) << bit
		accept(offered | f)
		require.Equal(t, offered.Has(f), d.Status()&features != 0, "feature %d", bit)
		require.False(t, d.NeedsReset())
	}
	accept(offered &^ virtio.FeatureVersion1)
	require.Zero(t, d.Status()&features, "without VERSION_1")
	d.Write(RegStatus, ack|driver|features|ok)
	require.EqualValues(t, ack|driver, d.Status(), "features refused, started all the same")

	d.Reset()
	d.Write(RegDriverSel, 1)
	d.Write(RegDriverFeatures, 1)
	d.Write(RegStatus, ack|driver|features|ok)
	require.EqualValues(t, ack|driver, d.Status(), "features written before DRIVER count as not written")

	for _, v := range []uint32{driver, features, ok, features | ok, ack | ok, ack | features, driver | ok} {
		d.Reset()
		d.Write(RegStatus, v)
		require.Zero(t, d.Status()&(features|ok), "status %#x from the start", v)
	}
	d.Up(offered)
	d.Write(RegStatus, ack|driver)
	require.EqualValues(t, ack|driver|features|ok, d.Status(), "bits do not go away")
	d.Write(RegDriverSel, 0)
	d.Write(RegDriverFeatures, 0)
	for range 10 {
		d.Start()
	}
	s.exercise(d)
	d.Write(RegStatus, d.Status()|StatusFailed)
	d.Write(RegStatus, ack|driver|features|ok)
	require.EqualValues(t, ack|driver|features|ok|StatusFailed, d.Status())
	d.Up(offered)
	s.exercise(d)
}

// oddAccesses reads and writes every offset with every width.
func (s Suite) oddAccesses(t *testing.T) {
	d := Attach(t, s.New(t))
	rnd := rand.New(rand.NewPCG(18, 18))
	for _, started := range []bool{false, true} {
		if started {
			d.Up(allRing)
		}
		for off := range uint64(0x1010) {
			for n := range 10 {
				p := make([]byte, n)
				for i := range p {
					p[i] = 0xa5
				}
				d.Regs.ReadMMIO(off, p)
				if off < RegConfig && (n != 4 || off%4 != 0) {
					require.Equal(t, make([]byte, n), p, "%d bytes at %#x", n, off)
				}
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
				d.Regs.WriteMMIO(off, p)
			}
		}
	}
	require.Less(t, len(d.Logged()), 100)
	d.Up(allRing)
	s.exercise(d)
}
