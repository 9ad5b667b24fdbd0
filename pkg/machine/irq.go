package machine

import "github.com/anthropics/boxlite/pkg/hv"

// irqLine is the interrupt of one device, raised as an edge: through an eventfd
// where the hypervisor takes one, else by two calls.
type irqLine struct {
	vm   hv.VM
	gsi  uint32
	line eventLine
}

// irqLine returns the line of a GSI. Devices that share a line share its
// eventfd: with one each, an edge could drown in the pulse of the other.
func (m *Machine) irqLine(gsi uint32) (*irqLine, error) {
	if l := m.irqs[gsi]; l != nil {
		return l, nil
	}
	l, err := newIRQLine(m.vm, gsi)
	if err == nil {
		m.irqs[gsi] = l
	}
	return l, err
}

func newIRQLine(vm hv.VM, gsi uint32) (*irqLine, error) {
	l := &irqLine{vm: vm, gsi: gsi, line: eventLine{fd: -1}}
	if r, ok := vm.(hv.IRQEventer); ok {
		if err := l.line.open(); err != nil {
			return nil, err
		}
		if err := r.RegisterIRQEvent(l.line.fd, gsi); err != nil {
			l.line.close()
			return nil, err
		}
	}
	return l, nil
}

// pulse may be called from any goroutine.
func (l *irqLine) pulse() {
	if l.line.fd >= 0 {
		l.line.signal()
		return
	}
	// Errors mean a VM that is going away; there is nobody left to interrupt.
	_ = l.vm.SetIRQ(l.gsi, true)
	_ = l.vm.SetIRQ(l.gsi, false)
}

func (l *irqLine) close() error { return l.line.close() }
