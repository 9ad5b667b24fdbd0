package machine

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine/serial"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
)

// slot is one virtio device in its place on the bus.
type slot struct {
	dev       virtio.Device
	transport *mmio.Transport
	at        boot.Device
}

func (m *Machine) addDevice(d virtio.Device, log *slog.Logger) error {
	i := len(m.slots)
	at, err := x86.Virtio(i)
	if err != nil {
		return fmt.Errorf("machine: add %v: %w", d.ID(), err)
	}
	s := &slot{dev: d, at: at}
	s.transport = mmio.New(d, m.mem, mmio.Config{
		Page:      m.registerPage(i),
		Interrupt: m.irqLine(at.IRQ).pulse,
		Log: func(format string, args ...any) {
			log.Warn(fmt.Sprintf(format, args...), "slot", i)
		},
	})
	m.slots = append(m.slots, s)
	m.bus.devices = append(m.bus.devices, s.transport)
	if err := m.addDoorbells(s); err != nil {
		return err
	}
	return m.dropACKs(s)
}

// addRegisters makes, where the hypervisor can show them to the guest, the pages in
// which the devices' registers stand, so that it reads them without an exit.
func (m *Machine) addRegisters(devices int) (err error) {
	if devices == 0 {
		return nil
	}
	vm, ok := m.vm.(hv.ReadOnlyMapper)
	if !ok {
		return nil // a transport has memory of its own
	}
	if m.registers, err = guestmem.New(guestmem.Range{Base: x86.VirtioBase, Size: uint64(devices) * x86.VirtioSize}); err != nil {
		return fmt.Errorf("machine: registers of %d devices: %w", devices, err)
	}
	if err := vm.MapReadOnly(m.registers.Regions()[0]); err != nil {
		return fmt.Errorf("machine: show the devices' registers: %w", err)
	}
	return nil
}

func (m *Machine) registerPage(i int) []byte {
	if m.registers == nil {
		return nil
	}
	return m.registers.Regions()[0].Bytes[i*x86.VirtioSize:][:x86.VirtioSize]
}

// dropACKs keeps acknowledgements of used buffers in the kernel: nothing waits for
// them, as interrupts are edges. InterruptStatus then says "used buffers" for good
// (virtio 1.3 §4.2.2 has the driver's write clear it). That costs a driver a look at
// rings without news in an interrupt that is for a changed configuration, or for
// another device on the line; one that would wait for a status of zero never ends.
func (m *Machine) dropACKs(s *slot) error {
	vm, ok := m.vm.(hv.IOEventer)
	if !ok {
		return nil
	}
	if m.acks == nil {
		var err error
		if m.acks, err = virtio.NewDoorbell(); err != nil {
			return fmt.Errorf("machine: acknowledgements: %w", err)
		}
	}
	if err := vm.RegisterIOEvent(m.acks.FD(), s.at.Base+mmio.InterruptACK, mmio.InterruptUsed); err != nil {
		return fmt.Errorf("machine: acknowledgements of %v: %w", s.dev.ID(), err)
	}
	return nil
}

// addDoorbells turns notifications into eventfd signals where device and
// hypervisor both can, so that the vCPU does not leave the kernel for them.
func (m *Machine) addDoorbells(s *slot) error {
	events, ok := s.dev.(virtio.QueueEventer)
	if !ok {
		return nil
	}
	vm, ok := m.vm.(hv.IOEventer)
	if !ok {
		return nil
	}
	for q, fd := range events.QueueEvents() {
		if err := vm.RegisterIOEvent(fd, s.at.Base+mmio.QueueNotify, uint32(q)); err != nil {
			return fmt.Errorf("machine: doorbell of %v queue %d: %w", s.dev.ID(), q, err)
		}
	}
	return nil
}

func (s *slot) stats() DeviceStats {
	c := s.transport.Counters()
	return DeviceStats{
		Name:          s.dev.ID().String(),
		Notifications: c.Notifications,
		Interrupts:    c.Interrupts,
		DriverErrors:  c.DriverErrors,
	}
}

func (m *Machine) addSerial(out io.Writer) error {
	if out == nil {
		out = io.Discard
	}
	m.uart = serial.New(out, func(level bool) {
		// A line that cannot be driven shows as a mute console, not as a reason to stop the guest.
		_ = m.vm.SetIRQ(x86.COM1IRQ, level)
	})
	m.bus.uart = m.uart
	return nil
}

// load puts the kernel into RAM.
func (m *Machine) load(cfg *Config) (err error) {
	p := boot.Params{Kernel: cfg.Kernel, Initrd: cfg.Initrd, Cmdline: cfg.Cmdline, CPUs: cfg.CPUs, Share: cfg.ShareFiles}
	for _, s := range m.slots {
		p.Devices = append(p.Devices, s.at)
	}
	m.entry, err = x86.Load(m.mem, p)
	return err
}
