package mmio_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// paged is a transport whose page a guest reads.
type paged struct {
	*mmio.Transport
	page []byte
}

func newPaged(t *testing.T, dev virtio.Device) *paged {
	page := make([]byte, mmio.Size)
	return &paged{mmio.New(dev, virtiotest.NewMemory(t), mmio.Config{Page: page}), page}
}

func (p *paged) write(off uint64, v uint32) {
	p.WriteMMIO(off, binary.LittleEndian.AppendUint32(nil, v))
}

// negotiate goes from DRIVER to FEATURES_OK, with VERSION_1 alone.
func (p *paged) negotiate() {
	p.write(virtiotest.RegDriverSel, 1)
	p.write(virtiotest.RegDriverFeatures, 1)
	p.write(virtiotest.RegStatus, 11)
}

func (p *paged) seen(off uint64) uint32 { return binary.LittleEndian.Uint32(p.page[off:]) }

// TestPage walks a driver's way with loads from the page alone.
func TestPage(t *testing.T) {
	dev := &probe{Echo: echo()}
	p := newPaged(t, dev)
	require.EqualValues(t, 0x74726976, p.seen(virtiotest.RegMagic))
	require.EqualValues(t, 63, p.seen(virtiotest.RegDeviceID))
	offered := uint64(ring | 1)
	require.EqualValues(t, uint32(offered), p.seen(virtiotest.RegDeviceFeatures), "the low half is selected after a reset")
	p.write(virtiotest.RegDeviceSel, 1)
	require.EqualValues(t, offered>>32, p.seen(virtiotest.RegDeviceFeatures))
	for _, s := range []uint32{1, 3} {
		p.write(virtiotest.RegStatus, s)
		require.Equal(t, s, p.seen(virtiotest.RegStatus))
	}
	p.negotiate()
	require.EqualValues(t, 11, p.seen(virtiotest.RegStatus))
	require.EqualValues(t, 64, p.seen(virtiotest.RegQueueSizeMax))
	p.write(virtiotest.RegQueueSel, 1)
	require.EqualValues(t, 8, p.seen(virtiotest.RegQueueSizeMax))
	p.write(virtiotest.RegQueueDesc, 0x1000)
	p.write(virtiotest.RegQueueDriver, 0x2000)
	p.write(virtiotest.RegQueueDevice, 0x3000)
	p.write(virtiotest.RegQueueReady, 1)
	require.EqualValues(t, 1, p.seen(virtiotest.RegQueueReady))
	p.write(virtiotest.RegQueueSel, 2)
	require.Zero(t, p.seen(virtiotest.RegQueueReady))
	require.Zero(t, p.seen(virtiotest.RegQueueSizeMax))
	p.write(virtiotest.RegStatus, 15)
	require.EqualValues(t, 15, p.seen(virtiotest.RegStatus))

	dev.act.IRQ.Used(1)
	require.EqualValues(t, 1, p.seen(virtiotest.RegInterrupt))
	p.write(virtiotest.RegInterruptACK, 1)
	require.Zero(t, p.seen(virtiotest.RegInterrupt))
	dev.act.IRQ.NeedsReset(errors.New("broken"))
	require.EqualValues(t, 15|virtiotest.StatusNeedsReset, p.seen(virtiotest.RegStatus))
	p.write(virtiotest.RegStatus, 0)
	require.Zero(t, p.seen(virtiotest.RegStatus))
	require.Zero(t, p.seen(virtiotest.RegInterrupt))
}

// settable is a device whose configuration the host changes.
type settable struct {
	*probe
	mu    sync.Mutex
	value uint32
}

func (s *settable) ReadConfig(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	binary.LittleEndian.PutUint32(p, s.value)
}

func (s *settable) set(v uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = v
}

// TestPageShowsConfig: before the driver starts, each step of it shows what is
// there; after, the device says when.
func TestPageShowsConfig(t *testing.T) {
	dev := &settable{probe: &probe{Echo: echo()}, value: 1}
	p := newPaged(t, dev)
	require.EqualValues(t, 1, p.seen(virtiotest.RegConfig))
	dev.set(2)
	p.write(virtiotest.RegStatus, 1)
	require.EqualValues(t, 2, p.seen(virtiotest.RegConfig))
	p.write(virtiotest.RegStatus, 3)
	p.negotiate()
	p.write(virtiotest.RegStatus, 15)
	before := p.seen(virtiotest.RegGeneration)
	dev.set(3)
	dev.act.IRQ.ConfigChanged()
	require.EqualValues(t, 3, p.seen(virtiotest.RegConfig))
	require.NotEqual(t, before, p.seen(virtiotest.RegGeneration))
	require.EqualValues(t, 2, p.seen(virtiotest.RegInterrupt))

	irq := dev.act.IRQ
	require.NoError(t, p.Close())
	dev.set(4)
	was := string(p.page)
	irq.ConfigChanged()
	require.Equal(t, was, string(p.page), "a stopped device touches it no more")
}

// TestPageShowsTheLastConfig changes the configuration from several goroutines.
func TestPageShowsTheLastConfig(t *testing.T) {
	dev := &settable{probe: &probe{Echo: echo()}}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	for round := range uint32(500) {
		var all sync.WaitGroup
		for i := range uint32(4) {
			all.Go(func() {
				dev.set(round<<8 | i)
				dev.act.IRQ.ConfigChanged()
			})
		}
		all.Wait()
		require.Equal(t, dev.value, d.Read(virtiotest.RegConfig))
	}
}

// lateConfig changes its configuration while it is started, when it has nobody to
// tell of it yet.
type lateConfig struct{ *settable }

func (l *lateConfig) Activate(a virtio.Activation) error {
	l.set(9)
	return l.settable.Activate(a)
}

func TestPageShowsWhatChangedMeanwhile(t *testing.T) {
	dev := &lateConfig{&settable{probe: &probe{Echo: echo()}, value: 1}}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	require.EqualValues(t, 9, d.Read(virtiotest.RegConfig))
}

// slowConfig waits in ReadConfig when told to.
type slowConfig struct {
	*settable
	slow       atomic.Bool
	in, resume chan struct{}
}

func (s *slowConfig) ReadConfig(p []byte) {
	s.settable.ReadConfig(p)
	if s.slow.CompareAndSwap(true, false) {
		s.in <- struct{}{}
		<-s.resume
	}
}

// TestCloseWaitsForTheConfig: when Close returns, nothing writes to the page, which
// may be unmapped.
func TestCloseWaitsForTheConfig(t *testing.T) {
	dev := &slowConfig{settable: &settable{probe: &probe{Echo: echo()}, value: 1}, in: make(chan struct{}), resume: make(chan struct{})}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	dev.slow.Store(true)
	go dev.act.IRQ.ConfigChanged()
	<-dev.in
	var closed atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Transport.Close(); err != nil {
			t.Error(err)
		}
		closed.Store(true)
	}()
	for dev.resets.Load() == 0 { // Close is where it has stopped the device
		runtime.Gosched()
	}
	time.Sleep(10 * time.Millisecond)
	require.False(t, closed.Load())
	close(dev.resume)
	<-done
}

// TestReadAtOnce: a register is never seen half changed.
func TestReadAtOnce(t *testing.T) {
	dev := &settable{probe: &probe{Echo: echo()}}
	d := virtiotest.Attach(t, dev)
	var writer sync.WaitGroup
	var stop atomic.Bool
	writer.Go(func() {
		for i := uint32(0); !stop.Load(); i++ {
			dev.set(-(i % 2)) // all ones, all zeroes
			d.Regs.WriteMMIO(virtiotest.RegConfig+200, []byte{0, 0, 0, 0})
		}
	})
	for range 300_000 {
		if v := d.Read(virtiotest.RegConfig); v != 0 && v != 0xffffffff {
			t.Fatalf("%#x", v)
		}
	}
	stop.Store(true)
	writer.Wait()
}

// TestPageWithoutTheRest: registers that are only written read as zero, whatever
// the driver said, and so does all that is none.
func TestPageWithoutTheRest(t *testing.T) {
	dev := &probe{Echo: echo()}
	p := newPaged(t, dev)
	p.WriteMMIO(virtiotest.RegConfig, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	p.write(virtiotest.RegStatus, 3)
	p.negotiate()
	p.write(virtiotest.RegQueueSel, 1)
	p.write(virtiotest.RegQueueSize, 4)
	for i, reg := range []uint64{virtiotest.RegQueueDesc, virtiotest.RegQueueDriver, virtiotest.RegQueueDevice} {
		p.write(reg, 0x10000*uint32(i+1))
		p.write(reg+4, 0)
	}
	p.write(virtiotest.RegQueueReady, 1)
	p.write(virtiotest.RegStatus, 15)
	require.EqualValues(t, 1, p.seen(virtiotest.RegQueueReady))
	require.Equal(t, []byte{1, 2, 3, 4, 5, 6, 7, 8}, p.page[virtiotest.RegConfig:virtiotest.RegConfig+8])
	shown := map[uint64]bool{
		0x000: true, 0x004: true, 0x008: true, 0x00c: true, virtiotest.RegDeviceFeatures: true, virtiotest.RegQueueSizeMax: true,
		virtiotest.RegQueueReady: true, virtiotest.RegInterrupt: true, virtiotest.RegStatus: true,
		0x0b0: true, 0x0b4: true, 0x0b8: true, 0x0bc: true, virtiotest.RegGeneration: true,
		virtiotest.RegConfig: true, virtiotest.RegConfig + 4: true,
	}
	for off := uint64(0); off < mmio.Size; off += 4 {
		if !shown[off] {
			require.Zero(t, p.seen(off), "register %#x", off)
		}
	}
}
