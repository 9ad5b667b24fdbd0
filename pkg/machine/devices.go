package machine

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine/serial"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
)

// mmioNotify is the offset of QueueNotify (virtio 1.3 §4.2.2).
const mmioNotify = 0x050

// slot is one virtio device in its place on the bus.
type slot struct {
	dev       virtio.Device
	transport *mmio.Transport
	irq       *irqLine // shared with every other slot on the line
	at        boot.Device
}

func (m *Machine) addDevice(d virtio.Device, log *slog.Logger) error {
	i := len(m.slots)
	at, err := x86.Virtio(i)
	if err != nil {
		return fmt.Errorf("machine: add %v: %w", d.ID(), err)
	}
	s := &slot{dev: d, at: at}
	if s.irq, err = m.irqLine(at.IRQ); err != nil {
		return fmt.Errorf("machine: interrupt of %v: %w", d.ID(), err)
	}
	s.transport = mmio.New(d, m.mem, mmio.Config{
		Interrupt: s.irq.pulse,
		Log: func(format string, args ...any) {
			log.Warn(fmt.Sprintf(format, args...), "slot", i)
		},
	})
	m.slots = append(m.slots, s)
	m.bus.devices = append(m.bus.devices, s.transport)
	return m.addDoorbells(s)
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
		if err := vm.RegisterIOEvent(fd, s.at.Base+mmioNotify, uint32(q)); err != nil {
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
