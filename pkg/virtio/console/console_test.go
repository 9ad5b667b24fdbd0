package console_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/console"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const (
	receiveq  = 0
	transmitq = 1

	featureSize = 1 << 0
)

// screen collects output.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) shows(want string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String() == want
}

func (s *screen) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Len()
}

func device(t testing.TB, out io.Writer, c console.Config) *console.Device {
	t.Helper()
	d, err := console.New(out, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func console0(d *virtiotest.Driver) *console.Device { return d.Device().(*console.Device) }

// typed writes to the guest and reads it there.
func typed(d *virtiotest.Driver, text string) {
	d.T.Helper()
	_, err := console0(d).Write([]byte(text))
	require.NoError(d.T, err)
	at, got := d.Alloc(64), ""
	for len(got) < len(text) {
		n := d.Do(receiveq, virtiotest.Buf{Addr: at, Len: 32, Write: true}, virtiotest.Buf{Addr: at + 32, Len: 32, Write: true})
		require.LessOrEqual(d.T, n, uint32(64))
		got += string(d.Bytes(at, int(n)))
	}
	require.Equal(d.T, text, got)
}

func exercise(d *virtiotest.Driver) {
	d.T.Helper()
	text := d.Put([]byte("output\n"))
	require.Zero(d.T, d.Do(transmitq, virtiotest.Buf{Addr: text, Len: 3}, virtiotest.Buf{Addr: text + 3, Len: 4}))
	typed(d, "some input that takes more than one buffer of the guest to get through\n")
}

var suite = virtiotest.Suite{
	New:      func(t testing.TB) virtio.Device { return device(t, io.Discard, console.Config{Cols: 80, Rows: 25}) },
	Exercise: exercise,
	Waits:    []int{receiveq},
	Stimulate: func(d *virtiotest.Driver, q int) {
		_, err := console0(d).Write([]byte("x"))
		require.NoError(d.T, err)
	},
}

func TestDevice(t *testing.T)       { suite.Run(t) }
func TestHostileGuest(t *testing.T) { suite.Hostile(t) }

func TestOutputIsExactAndInOrder(t *testing.T) {
	out := new(screen)
	d := virtiotest.Attach(t, device(t, out, console.Config{}))
	d.Up(virtio.FeatureEventIdx)
	var want []byte
	for i := range 1000 {
		line := bytes.Repeat([]byte{byte(i)}, 1+i%200)
		want = append(want, line...)
		at := d.Alloc(0)
		copy(d.Bytes(at, len(line)), line)
		d.Do(transmitq, virtiotest.Buf{Addr: at, Len: uint32(len(line))})
	}
	require.True(t, virtiotest.Poll(func() bool { return out.shows(string(want)) }))
	require.Zero(t, console0(d).Dropped())
}

func TestInputWaitsForTheGuest(t *testing.T) {
	dev := device(t, io.Discard, console.Config{})
	d := virtiotest.Attach(t, dev)
	_, err := dev.Write([]byte("early ")) // before there is a driver
	require.NoError(t, err)
	d.Up(0)
	at := d.Alloc(64)
	n := d.Do(receiveq, virtiotest.Buf{Addr: at, Len: 64, Write: true})
	require.Equal(t, "early ", string(d.Bytes(at, int(n))))

	head := d.Rings[receiveq].Add(virtiotest.Buf{Addr: at, Len: 64, Write: true})
	d.Kick(receiveq)
	_, err = dev.Write([]byte("late"))
	require.NoError(t, err)
	u, ok := d.WaitUsed(receiveq)
	require.True(t, ok)
	require.Equal(t, virtiotest.Used{Head: head, Len: 4}, u)
}

func TestResize(t *testing.T) {
	dev := device(t, io.Discard, console.Config{Cols: 80, Rows: 25})
	d := virtiotest.Attach(t, dev)
	size := func() [2]uint16 {
		c := d.Config(0, 4)
		return [2]uint16{binary.LittleEndian.Uint16(c), binary.LittleEndian.Uint16(c[2:])}
	}
	require.Equal(t, [2]uint16{80, 25}, size())
	d.Up(featureSize)
	gen := d.Read(virtiotest.RegGeneration)
	dev.Resize(132, 43)
	require.EqualValues(t, 2, d.Interrupted(), "configuration change")
	require.Equal(t, [2]uint16{132, 43}, size())
	require.NotEqual(t, gen, d.Read(virtiotest.RegGeneration))

	gen = d.Read(virtiotest.RegGeneration)
	dev.Resize(132, 43)
	require.Equal(t, gen, d.Read(virtiotest.RegGeneration), "nothing changed")
	d.Up(0)
	dev.Resize(1, 1)
	require.Zero(t, d.Read(virtiotest.RegInterrupt), "the driver does not want to know")
}

// blocked is a sink that takes nothing until it is released.
type blocked struct {
	screen
	release chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.screen.Write(p)
}

func TestHostile55ConsoleFloodWithBlockedSink(t *testing.T) {
	const backlog = 64 << 10
	out := &blocked{release: make(chan struct{})}
	dev := device(t, out, console.Config{Backlog: backlog})
	d := virtiotest.Attach(t, dev)
	d.Up(virtio.FeatureEventIdx)
	const size = 4 << 20
	at := d.Alloc(size)
	for i := range d.Bytes(at, size) {
		d.Bytes(at, size)[i] = byte(i >> 8)
	}
	for range 256 { // 1 GiB, of which the device looks at what it may keep
		require.Zero(t, d.Do(transmitq, virtiotest.Buf{Addr: at, Len: size}))
	}
	for range 4096 { // and in small pieces
		d.Do(transmitq, virtiotest.Buf{Addr: at, Len: 256})
	}
	const sent = 256*size + 4096*256
	require.GreaterOrEqual(t, dev.Dropped(), uint64(sent-backlog-32<<10))
	typed(d, "input still works")

	last := d.Put([]byte("the newest survives"))
	d.Do(transmitq, virtiotest.Buf{Addr: last, Len: 19})
	close(out.release)
	require.True(t, virtiotest.Poll(func() bool { return uint64(out.Len())+dev.Dropped() == sent+19 }))
	require.LessOrEqual(t, out.Len(), backlog+32<<10)
	require.True(t, bytes.HasSuffix(out.buf.Bytes(), []byte("the newest survives")))
}

func TestHostile55ConsoleInputFlood(t *testing.T) {
	dev, err := console.New(io.Discard, console.Config{})
	require.NoError(t, err)
	d := virtiotest.Attach(t, dev)
	d.Up(0) // and never a receive buffer
	type result struct {
		n   int
		err error
	}
	got := make(chan result, 1)
	go func() {
		n, err := dev.Write(make([]byte, 64<<20))
		got <- result{n, err}
	}()
	at := d.Put([]byte("x"))
	for range 100 {
		d.Do(transmitq, virtiotest.Buf{Addr: at, Len: 1})
	}
	require.NoError(t, d.Transport.Close())
	require.NoError(t, dev.Close())
	r := <-got
	require.ErrorIs(t, r.err, io.ErrClosedPipe)
	require.LessOrEqual(t, r.n, 2*64<<10)
	_, err = dev.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) {
	b.writes++
	return 0, errors.New("gone")
}

func TestSinkThatFailsIsLeftAlone(t *testing.T) {
	out := new(broken)
	dev, err := console.New(out, console.Config{})
	require.NoError(t, err)
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	at := d.Put([]byte("x"))
	for i := range 100 {
		d.Do(transmitq, virtiotest.Buf{Addr: at, Len: 1})
		if i == 0 {
			require.True(t, virtiotest.Poll(func() bool { return dev.Dropped() == 1 }))
		}
	}
	require.NoError(t, d.Transport.Close())
	require.NoError(t, dev.Close())
	require.Equal(t, 1, out.writes)
	require.EqualValues(t, 100, dev.Dropped())
}

func TestCloseHandsOutTheRest(t *testing.T) {
	out := new(screen)
	dev, err := console.New(out, console.Config{})
	require.NoError(t, err)
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	at := d.Put([]byte("last words"))
	d.Do(transmitq, virtiotest.Buf{Addr: at, Len: 10})
	require.NoError(t, d.Transport.Close())
	require.NoError(t, dev.Close())
	require.True(t, out.shows("last words"))
}

func TestBadBacklog(t *testing.T) {
	_, err := console.New(io.Discard, console.Config{Backlog: 100})
	require.ErrorContains(t, err, "console: backlog of 100")
}

func TestNoAllocations(t *testing.T) {
	dev := device(t, io.Discard, console.Config{})
	d := virtiotest.Attach(t, dev)
	d.Up(virtio.FeatureEventIdx)
	at, key := d.Alloc(64), []byte("key")
	out := []virtiotest.Buf{{Addr: at, Len: 64}}
	in := []virtiotest.Buf{{Addr: at, Len: 64, Write: true}}
	virtiotest.NoAllocations(t, func() {
		d.Do(transmitq, out...)
		if _, err := dev.Write(key); err != nil {
			t.Error(err)
		}
		d.Do(receiveq, in...)
	})
}

func FuzzDriver(f *testing.F) { virtiotest.FuzzDevice(f, suite) }

func BenchmarkOutput64(b *testing.B) {
	d := virtiotest.Attach(b, device(b, io.Discard, console.Config{}))
	d.Up(virtio.FeatureEventIdx)
	bufs := []virtiotest.Buf{{Addr: d.Alloc(64), Len: 64}}
	b.ReportAllocs()
	for b.Loop() {
		d.Do(transmitq, bufs...)
	}
}
