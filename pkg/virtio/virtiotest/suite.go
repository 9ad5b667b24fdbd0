package virtiotest

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
)

// Factory makes a fresh device. What it opens is closed by t.Cleanup.
type Factory func(t testing.TB) virtio.Device

// Suite is what the tests of one kind of device need.
type Suite struct {
	New Factory
	// Exercise does something useful with a started device and checks it; it
	// may be called several times. nil: nothing.
	Exercise func(d *Driver)
	// Waits are the queues whose buffers the device keeps until something
	// happens outside the guest.
	Waits []int
	// Stimulate makes that happen for a queue of Waits. nil: nobody can.
	Stimulate func(d *Driver, q int)
}

// RunDevice checks that a device obeys the rules all devices share.
func RunDevice(t *testing.T, factory Factory) { Suite{New: factory}.Run(t) }

// ringFeatures are the combinations of ring features that drivers use (§6).
var ringFeatures = []virtio.Features{
	0,
	virtio.FeatureIndirectDesc,
	virtio.FeatureEventIdx,
	virtio.FeatureIndirectDesc | virtio.FeatureEventIdx,
}

const allRing = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

// Run checks that a device obeys the rules all devices share, and does its work
// under all of them.
func (s Suite) Run(t *testing.T) {
	t.Run("Identity", s.identity)
	t.Run("Work", s.work)
	t.Run("WorkAfterReset", s.workAfterReset)
	t.Run("SmallQueues", s.smallQueues)
	t.Run("NoQueues", s.noQueues)
	t.Run("ConfigSpace", s.configSpace)
	t.Run("Close", s.close)
	t.Run("Leaks", s.leaks)
}

func (s Suite) exercise(d *Driver) {
	d.T.Helper()
	if s.Exercise != nil {
		s.Exercise(d)
	}
	if d.NeedsReset() {
		d.T.Fatalf("virtiotest: device wants a reset: %q", d.Logged())
	}
}

func (s Suite) identity(t *testing.T) {
	d := Attach(t, s.New(t))
	require.EqualValues(t, d.dev.ID(), d.Read(RegDeviceID))
	require.NotZero(t, d.Read(RegDeviceID))
	require.Equal(t, d.dev.Features()|allRing|virtio.FeatureVersion1, d.Offered())
	require.Zero(t, d.dev.Features()&(allRing|virtio.FeatureVersion1), "the transport's bits")
	sizes := d.dev.QueueSizes()
	require.NotEmpty(t, sizes)
	for i, n := range sizes {
		require.True(t, n > 0 && n&(n-1) == 0, "size of queue %d is %d", i, n)
		d.Write(RegQueueSel, uint32(i))
		require.EqualValues(t, n, d.Read(RegQueueSizeMax))
	}
	d.Write(RegQueueSel, uint32(len(sizes)))
	require.Zero(t, d.Read(RegQueueSizeMax))
	if e, ok := d.dev.(virtio.QueueEventer); ok {
		require.Len(t, e.QueueEvents(), len(sizes))
		require.Equal(t, e.QueueEvents(), e.QueueEvents(), "they stay the same")
	}
}

func (s Suite) work(t *testing.T) {
	for _, ring := range ringFeatures {
		for _, f := range []virtio.Features{ring, ring | s.New(t).Features()} {
			d := Attach(t, s.New(t))
			d.Up(f)
			s.exercise(d)
		}
	}
}

func (s Suite) workAfterReset(t *testing.T) {
	d := Attach(t, s.New(t))
	for range 20 {
		d.Up(allRing | d.dev.Features())
		s.exercise(d)
	}
}

func (s Suite) smallQueues(t *testing.T) {
	d := Attach(t, s.New(t))
	d.Negotiate(d.dev.Features())
	for q, n := range d.dev.QueueSizes() {
		d.SetupQueue(q, min(n, 8), false)
	}
	d.Start()
	s.exercise(d)
}

// noQueues starts the device with each of its queues missing, and with all.
func (s Suite) noQueues(t *testing.T) {
	d := Attach(t, s.New(t))
	n := len(d.dev.QueueSizes())
	for missing := range n + 1 {
		d.Negotiate(d.dev.Features())
		for q := range n {
			if q != missing && missing != n {
				d.SetupQueue(q, 0, false)
			}
		}
		d.Start()
		for q := range n {
			d.Write(RegQueueNotify, uint32(q))
		}
		s.stimulate(d)
		require.False(t, d.NeedsReset(), "%q", d.Logged())
	}
	d.Up(d.dev.Features())
	s.exercise(d)
}

func (s Suite) configSpace(t *testing.T) {
	d := Attach(t, s.New(t))
	for pass := range 2 {
		whole := d.Config(0, mmio.Size-RegConfig)
		for off := range uint64(128) {
			for _, n := range []int{1, 2, 4, 8} {
				require.Equal(t, whole[off:off+uint64(n)], d.Config(off, n), "%d bytes at %d", n, off)
			}
		}
		end := uint64(len(whole))
		for _, off := range []uint64{end - 1, end, end + 1, 1<<32 - RegConfig - 1, 1 << 32, 1<<64 - RegConfig - 8} {
			require.Equal(t, make([]byte, 8), d.Config(off, 8), "beyond the end, at %d", off)
		}
		if pass == 0 {
			d.Up(d.dev.Features())
		}
	}
	for off := range uint64(256) {
		for _, n := range []int{1, 2, 3, 4, 8} {
			d.Regs.WriteMMIO(RegConfig+off, slices.Repeat([]byte{0xff}, n))
		}
	}
	s.exercise(d)
}

func (s Suite) close(t *testing.T) {
	d := Attach(t, s.New(t))
	d.Up(allRing)
	s.exercise(d)
	require.NoError(t, d.Transport.Close())
	require.NoError(t, d.dev.Reset(), "of a device that is not active")
	d.Write(RegStatus, StatusAcknowledge)
	for q := range d.Rings {
		d.Write(RegQueueNotify, uint32(q))
	}
}

// leaks checks that starting and stopping leaves no goroutine and no file behind.
func (s Suite) leaks(t *testing.T) {
	d := Attach(t, s.New(t))
	check := watchLeaks(t)
	for range 100 {
		d.Up(allRing)
		s.exercise(d)
	}
	d.Reset()
	check()
}

// watchLeaks returns a check that there are no more goroutines and open files
// than now.
func watchLeaks(t *testing.T) func() {
	goroutines, files := runtime.NumGoroutine(), openFiles()
	return func() {
		t.Helper()
		if !Poll(func() bool { return runtime.NumGoroutine() <= goroutines && openFiles() <= files }) {
			stacks := make([]byte, 64<<10)
			t.Fatalf("virtiotest: %d goroutines and %d files became %d and %d:\n%s", goroutines, files,
				runtime.NumGoroutine(), openFiles(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// openFiles counts file descriptors of this process, where the system tells.
func openFiles() int {
	names, err := os.ReadDir("/dev/fd")
	if err != nil {
		return 0
	}
	return len(names)
}
