package rng

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

func device(t testing.TB) *Device {
	t.Helper()
	d, err := New(Config{Rate: 1 << 30})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

var suite = virtiotest.Suite{
	New: func(t testing.TB) virtio.Device { return device(t) },
	Exercise: func(d *virtiotest.Driver) {
		at := d.Alloc(4096)
		var last [64]byte
		for range 3 {
			require.EqualValues(d.T, 64, d.Do(0, virtiotest.Buf{Addr: at, Len: 64, Write: true}))
			require.NotEqual(d.T, last[:], d.Bytes(at, 64))
			copy(last[:], d.Bytes(at, 64))
		}
		require.Equal(d.T, make([]byte, 64), d.Bytes(at+64, 64), "bytes beyond the buffer")
	},
}

func TestDevice(t *testing.T)       { suite.Run(t) }
func TestHostileGuest(t *testing.T) { suite.Hostile(t) }

func TestHostile53RngRequestOf4GiB(t *testing.T) {
	d := virtiotest.Attach(t, device(t))
	// The same 16 MiB again and again, 4 GiB less a little in all: legal, and capped.
	d.Up(virtio.FeatureIndirectDesc)
	chain := make([]virtiotest.Buf, 63)
	for i := range chain {
		chain[i] = virtiotest.Buf{Addr: virtiotest.HighBase, Len: virtiotest.HighSize, Write: true}
	}
	for range 10 {
		require.EqualValues(t, maxRequest, d.Do(0, chain...))
	}
	high := d.Bytes(virtiotest.HighBase, virtiotest.HighSize)
	require.NotEqual(t, make([]byte, 64), high[maxRequest-64:maxRequest])
	require.True(t, bytes.Equal(make([]byte, virtiotest.HighSize-maxRequest), high[maxRequest:]), "written beyond the cap")

	// More than 2^32 in sum: refused.
	r := d.Rings[0]
	for i := range r.Size {
		r.SetDesc(i, virtiotest.Desc{Addr: virtiotest.HighBase, Len: 1 << 31, Flags: virtiotest.DescWrite | virtiotest.DescNext, Next: i + 1})
	}
	r.Submit(0)
	d.Write(virtiotest.RegQueueNotify, 0)
	require.True(t, virtiotest.Poll(d.NeedsReset))
	d.Up(0)
	suite.Exercise(d)
}

// TestHostile53RngFlood drains the device as fast as it goes, which is its rate.
func TestHostile53RngFlood(t *testing.T) {
	b := budget{rate: DefaultRate}
	now := time.Unix(1, 0)
	b.wait(now)
	got := 0
	for end := now.Add(10 * time.Second); now.Before(end); {
		if w := b.wait(now); w > 0 {
			now = now.Add(w)
			continue
		}
		b.take(maxRequest)
		got += maxRequest
		now = now.Add(time.Microsecond)
	}
	require.LessOrEqual(t, got, 10*DefaultRate+2*burst)
	require.GreaterOrEqual(t, got, 9*DefaultRate, "and no less than promised")

	now = now.Add(-time.Hour) // a clock that jumps back
	require.Less(t, b.wait(now), time.Minute)
	now = now.Add(1000 * time.Hour)
	require.Zero(t, b.wait(now))
	require.Zero(t, b.debt)
}

// TestResetDoesNotWaitForTheBudget: a guest that spent all can still be stopped.
func TestResetDoesNotWaitForTheBudget(t *testing.T) {
	dev, err := New(Config{Rate: maxRequest})
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	at := d.Alloc(maxRequest)
	for range 32 {
		d.Rings[0].Add(virtiotest.Buf{Addr: at, Len: maxRequest, Write: true})
	}
	d.Kick(0)
	for range burst / maxRequest {
		_, ok := d.WaitUsed(0)
		require.True(t, ok)
	}
	d.Reset() // 28 seconds' worth is left
}

func TestBadRate(t *testing.T) {
	_, err := New(Config{Rate: 100})
	require.ErrorContains(t, err, "rng: rate of 100")
}

func TestNoAllocations(t *testing.T) {
	d := virtiotest.Attach(t, device(t))
	d.Up(virtio.FeatureEventIdx)
	bufs := []virtiotest.Buf{{Addr: d.Alloc(64), Len: 64, Write: true}}
	virtiotest.NoAllocations(t, func() { d.Do(0, bufs...) })
}

func FuzzDriver(f *testing.F) { virtiotest.FuzzDevice(f, suite) }

func BenchmarkRequest64(b *testing.B) {
	d := virtiotest.Attach(b, device(b))
	d.Up(virtio.FeatureEventIdx)
	bufs := []virtiotest.Buf{{Addr: d.Alloc(64), Len: 64, Write: true}}
	b.ReportAllocs()
	for b.Loop() {
		d.Do(0, bufs...)
	}
}
