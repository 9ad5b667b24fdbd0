package machine

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// ableHV is a hypervisor with all optional abilities.
type ableHV struct {
	fakeRoot
	shown  []guestmem.Region
	events map[[2]uint64]int // address and value to eventfd
	refuse error
}

type ableVM struct {
	fakeVM
	hv *ableHV
}

func (h *ableHV) NewVM(c hv.Config) (hv.VM, error) {
	h.count(1)
	return ableVM{fakeVM(h.fakeRoot), h}, nil
}

func (v ableVM) MapReadOnly(r guestmem.Region) error {
	v.hv.shown = append(v.hv.shown, r)
	return v.hv.refuse
}

func (v ableVM) RegisterIOEvent(fd int, at guestmem.GPA, value uint32) error {
	v.hv.events[[2]uint64{uint64(at), uint64(value)}] = fd
	return nil
}

func newAble(t *testing.T, cfg Config) (*Machine, *ableHV, error) {
	h := &ableHV{fakeRoot: fakeRoot{&fakeHV{script: func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) }}}, events: map[[2]uint64]int{}}
	cfg.Open = func() (hv.Hypervisor, error) { return h, nil }
	cfg.Kernel, cfg.CPUs, cfg.MemoryMiB = tinyKernel(t), 1, 32
	m, err := New(cfg)
	return m, h, err
}

// TestRegistersAreShown: a guest finds every device by loads, and its
// acknowledgements of used buffers end in the kernel.
func TestRegistersAreShown(t *testing.T) {
	var devices []virtio.Device
	for range MaxDevices {
		devices = append(devices, &virtiotest.Echo{Sizes: []uint16{8}})
	}
	m, h, err := newAble(t, Config{Devices: devices})
	require.NoError(t, err)
	require.Len(t, h.shown, 1)
	require.EqualValues(t, x86.VirtioBase, h.shown[0].Base)
	page := func(i int) []byte { return h.shown[0].Bytes[i*x86.VirtioSize:][:x86.VirtioSize] }
	acks, ok := h.events[[2]uint64{x86.VirtioBase + virtiotest.RegInterruptACK, 1}]
	require.True(t, ok, "no ACK is registered")
	for i := range devices {
		require.EqualValues(t, 63, binary.LittleEndian.Uint32(page(i)[virtiotest.RegDeviceID:]), "device %d", i)
		at := x86.VirtioBase + uint64(i)*x86.VirtioSize
		require.Equal(t, acks, h.events[[2]uint64{at + virtiotest.RegInterruptACK, 1}])
		m.bus.writeMMIO(at+virtiotest.RegQueueSel, []byte{9, 0, 0, 0})
		require.Zero(t, binary.LittleEndian.Uint32(page(i)[virtiotest.RegQueueSizeMax:]))
		require.NotContains(t, h.events, [2]uint64{at + virtiotest.RegInterruptACK, 2}, "a changed configuration is the transport's to hear of")
	}
	require.Len(t, h.shown[0].Bytes, MaxDevices*x86.VirtioSize, "and nothing beyond")
	require.NoError(t, m.Close())
	require.Zero(t, h.open)
}

func TestRegistersThatCannotBeShown(t *testing.T) {
	h := &ableHV{fakeRoot: fakeRoot{&fakeHV{}}, refuse: errors.New("no slot"), events: map[[2]uint64]int{}}
	_, err := New(Config{
		Open:   func() (hv.Hypervisor, error) { return h, nil },
		Kernel: tinyKernel(t), CPUs: 1, MemoryMiB: 32, Devices: []virtio.Device{&virtiotest.Echo{Sizes: []uint16{8}}},
	})
	require.ErrorContains(t, err, "show the devices' registers: no slot")
	require.Zero(t, h.open, "nothing is left behind")
}
