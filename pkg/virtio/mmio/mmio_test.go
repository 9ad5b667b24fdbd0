package mmio_test

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

const ring = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

func echo() *virtiotest.Echo { return &virtiotest.Echo{Sizes: []uint16{64, 8}} }

func TestEchoUnderEveryFeatureSet(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.FeatureIndirectDesc, virtio.FeatureEventIdx, ring} {
		d := virtiotest.Attach(t, echo())
		d.Up(f)
		in, out := d.Put([]byte("hello, world")), d.Alloc(64)
		for i := range 1000 {
			q := i % 2
			require.EqualValues(t, 12, d.Do(q, virtiotest.Buf{Addr: in, Len: 12}, virtiotest.Buf{Addr: out, Len: 64, Write: true}))
			require.Equal(t, "hello, world", string(d.Bytes(out, 12)))
			clear(d.Bytes(out, 12))
		}
	}
}

func TestRegisters(t *testing.T) {
	d := virtiotest.Attach(t, echo())
	require.EqualValues(t, 0x74726976, d.Read(virtiotest.RegMagic))
	require.EqualValues(t, 2, d.Read(virtiotest.RegVersion))
	require.EqualValues(t, 63, d.Read(virtiotest.RegDeviceID))
	require.NotZero(t, d.Read(virtiotest.RegVendorID))
	require.Equal(t, ring|1, d.Offered())
	d.Write(virtiotest.RegDeviceSel, 2)
	require.Zero(t, d.Read(virtiotest.RegDeviceFeatures))
	require.EqualValues(t, 0xffffffff, d.Read(0x0b0), "length of a shared memory region that does not exist")
	require.Zero(t, d.Read(0x0c0), "QueueReset")
	require.Zero(t, d.Status())

	d.Up(ring)
	d.Write(virtiotest.RegQueueSel, 1)
	require.EqualValues(t, 8, d.Read(virtiotest.RegQueueSizeMax))
	require.EqualValues(t, 1, d.Read(virtiotest.RegQueueReady))
	d.Reset()
	d.Write(virtiotest.RegQueueSel, 1)
	require.Zero(t, d.Read(virtiotest.RegQueueReady))
	require.Zero(t, d.Status())
}

func TestConfigSpaceAndGeneration(t *testing.T) {
	dev := &probe{Echo: echo()}
	d := virtiotest.Attach(t, dev)
	d.Regs.WriteMMIO(virtiotest.RegConfig+2, []byte{1, 2, 3})
	require.Equal(t, []byte{0, 0, 1, 2, 3, 0, 0, 0}, d.Config(0, 8))
	require.Equal(t, []byte{3, 0}, d.Config(4, 2))
	require.Equal(t, []byte{0, 0, 0, 0}, d.Config(8, 4), "beyond the end")
	require.Equal(t, make([]byte, 8), d.Config(1<<40, 8), "far beyond the end")

	d.Up(0)
	gen := d.Read(virtiotest.RegGeneration)
	dev.act.IRQ.ConfigChanged()
	require.NotEqual(t, gen, d.Read(virtiotest.RegGeneration))
	require.EqualValues(t, 2, d.Interrupted())
	require.Zero(t, d.Read(virtiotest.RegInterrupt), "acknowledged")
}

func TestInterrupterOutlivesResetWithoutEffect(t *testing.T) {
	dev := &probe{Echo: echo()}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	old := dev.act.IRQ
	d.Up(0)
	before := d.Transport.Counters()
	old.Used(0)
	old.ConfigChanged()
	old.NeedsReset(errors.New("late"))
	require.Equal(t, before, d.Transport.Counters())
	require.False(t, d.NeedsReset())
	require.Zero(t, d.Read(virtiotest.RegInterrupt))
}

func TestDeviceThatCannotStart(t *testing.T) {
	dev := &probe{Echo: echo(), startErr: errors.New("no disk")}
	d := virtiotest.Attach(t, dev)
	d.Negotiate(0)
	d.SetupQueue(0, 0, false)
	d.Start()
	require.True(t, d.NeedsReset())
	require.EqualValues(t, 1, d.Transport.Counters().HostErrors)
	require.Contains(t, d.Logged()[0], "no disk")
	dev.startErr = nil
	d.Up(0)
}

func TestDeviceThatCannotStopIsNeverStartedAgain(t *testing.T) {
	dev := &probe{Echo: echo(), stopErr: errors.New("stuck")}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	d.Reset()
	require.True(t, d.NeedsReset())
	dev.act = nil
	d.Negotiate(0)
	d.Start()
	require.Nil(t, dev.act)
}

func TestCloseStopsTheDevice(t *testing.T) {
	dev := &probe{Echo: echo()}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	require.NoError(t, d.Transport.Close())
	require.NoError(t, d.Transport.Close())
	require.EqualValues(t, 1, dev.resets.Load())
	d.Write(virtiotest.RegQueueNotify, 0)
	dev.act = nil
	d.Negotiate(0)
	d.Start()
	require.Nil(t, dev.act)
}

// probe is an Echo that shows what the transport does with it.
type probe struct {
	*virtiotest.Echo
	act               *virtio.Activation
	startErr, stopErr error
	resets, notified  atomic.Int64
}

func (p *probe) Activate(a virtio.Activation) error {
	if p.startErr != nil {
		return p.startErr
	}
	p.act = &a
	return p.Echo.Activate(a)
}

func (p *probe) Reset() error {
	p.resets.Add(1)
	return errors.Join(p.stopErr, p.Echo.Reset())
}

func (p *probe) Notify(q int) {
	p.notified.Add(1)
	p.Echo.Notify(q)
}

// evented is a device that waits for an eventfd.
type evented struct {
	probe
	bell *virtio.Doorbell
}

func (e *evented) QueueEvents() []int { return []int{e.bell.FD(), -1} }

func TestNotificationsWithoutIoeventfdReachTheEventfd(t *testing.T) {
	bell, err := virtio.NewDoorbell()
	require.NoError(t, err)
	defer bell.Close()
	dev := &evented{probe: probe{Echo: echo()}, bell: bell}
	d := virtiotest.Attach(t, dev)
	d.Up(0)
	d.Write(virtiotest.RegQueueNotify, 1)
	require.EqualValues(t, 1, dev.notified.Load(), "no eventfd for queue 1")
	if bell.FD() >= 0 {
		d.Write(virtiotest.RegQueueNotify, 0)
		require.EqualValues(t, 1, dev.notified.Load())
		require.True(t, bell.Wait())
	}
}

func BenchmarkNotify(b *testing.B) {
	dev := &silent{echo()}
	d := virtiotest.Attach(b, dev)
	d.Up(ring)
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], 1)
	b.ReportAllocs()
	for b.Loop() {
		d.Regs.WriteMMIO(virtiotest.RegQueueNotify, p[:])
	}
}

// silent does nothing when notified.
type silent struct{ *virtiotest.Echo }

func (silent) Notify(int) {}

var _ virtiotest.Registers = (*mmio.Transport)(nil)
