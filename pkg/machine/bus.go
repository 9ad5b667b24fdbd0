package machine

import (
	"log/slog"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine/serial"
	"github.com/anthropics/boxlite/pkg/virtio/mmio"
)

// Ports of a PC that a guest without ACPI still uses.
const (
	portI8042Status = 0x64 // IBM PC keyboard controller; read: status, write: command
	i8042Reset      = 0xfe // command: pulse the CPU's reset line
	portCOM1        = x86.COM1Port
	serialPorts     = 8
)

// warnings is how often each kind of stray access is logged, so that a guest
// cannot fill the log.
const warnings = 8

// bus decodes the addresses of exits. It is complete before the first vCPU
// runs and does not change after, so lookups need no lock. Whatever the guest
// accesses has a defined answer: all ones where nothing is.
type bus struct {
	devices   []*mmio.Transport // of slot i, at x86.VirtioBase + i pages
	uart      *serial.UART
	log       *slog.Logger
	stray     atomic.Uint64 // accesses to nothing
	serialOut atomic.Uint64
}

func (b *bus) init(log *slog.Logger) { b.log = log }

// at finds the device at a guest-physical address.
func (b *bus) at(addr uint64, n int) (*mmio.Transport, uint64) {
	off := addr - uint64(x86.VirtioBase) // wraps below the window, and fails the next check
	i, reg := off/x86.VirtioSize, off%x86.VirtioSize
	if i >= uint64(len(b.devices)) || reg+uint64(n) > x86.VirtioSize {
		return nil, 0
	}
	return b.devices[i], reg
}

func (b *bus) readMMIO(addr uint64, p []byte) {
	if d, reg := b.at(addr, len(p)); d != nil {
		d.ReadMMIO(reg, p)
		return
	}
	allOnes(p)
	b.unassigned("read", addr)
}

func (b *bus) writeMMIO(addr uint64, p []byte) {
	if d, reg := b.at(addr, len(p)); d != nil {
		d.WriteMMIO(reg, p)
		return
	}
	b.unassigned("write", addr)
}

// port handles a port access, every element of a string instruction in turn,
// and reports whether the guest asked for a reset.
func (b *bus) port(e *hv.Exit) (reset bool) {
	switch {
	case e.Addr >= portCOM1 && e.Addr < portCOM1+serialPorts:
		b.serialPort(e)
	case e.Addr == portI8042Status && e.Write:
		for i := 0; i < len(e.Data); i += max(e.Width, 1) {
			reset = reset || e.Data[i] == i8042Reset
		}
	case e.Write:
		// Port 0x80 delays, PIC probes and the like: nothing is there, and
		// hardware would say nothing either.
	default:
		allOnes(e.Data)
		if e.Addr == portI8042Status {
			clear(e.Data) // input buffer empty, so that nobody waits for it
		}
	}
	return reset
}

// serialPort serves COM1, whose registers are bytes: wider accesses touch the
// neighbours, as on a PC.
func (b *bus) serialPort(e *hv.Exit) {
	width := max(e.Width, 1)
	for i := range e.Data {
		reg := uint16(e.Addr-portCOM1) + uint16(i%width)
		switch {
		case e.Write && reg < serialPorts:
			if reg == 0 {
				b.serialOut.Add(1)
			}
			b.uart.WritePort(reg, e.Data[i])
		case e.Write:
		case reg < serialPorts:
			e.Data[i] = b.uart.ReadPort(reg)
		default:
			e.Data[i] = 0xff
		}
	}
}

func (b *bus) unassigned(way string, addr uint64) {
	if n := b.stray.Add(1); n <= warnings {
		b.log.Warn("guest access to nothing", "access", way, "address", addr, "count", n)
	}
}

func allOnes(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
