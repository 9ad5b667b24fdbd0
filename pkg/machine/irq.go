package machine

import (
	"runtime"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/hv"
)

// irqLine is an interrupt line, raised as an edge, of one device or several.
type irqLine struct {
	vm    hv.VM
	gsi   uint32
	asked atomic.Uint32 // edges asked for and not given yet
}

// irqLine returns the line of a GSI.
func (m *Machine) irqLine(gsi uint32) *irqLine {
	if m.irqs[gsi] == nil {
		m.irqs[gsi] = &irqLine{vm: m.vm, gsi: gsi}
	}
	return m.irqs[gsi]
}

// spree is how many edges one caller gives at most: a guest that keeps many queues
// busy could have it give those of all others for ever.
const spree = 64

// pulse raises an edge that begins after the call did. Any goroutine may call it.
// Two pulses at once could be one edge, which the guest may have answered before
// the second caller's work was there to see. So one caller gives all edges, one
// for as many callers as asked while it gave the last, and the others do not wait.
func (l *irqLine) pulse() {
	if l.asked.Add(1) == 1 {
		l.give(1)
	}
}

// give raises edges until none is asked for; n are when it is called.
func (l *irqLine) give(n uint32) {
	for i := 0; n != 0; i++ {
		if i == spree {
			go l.give(n)
			return
		}
		// Errors mean a VM that is going away; there is nobody left to interrupt.
		_ = l.vm.SetIRQ(l.gsi, true)
		_ = l.vm.SetIRQ(l.gsi, false)
		n = l.asked.Add(-n)
	}
}

// settle returns when all edges are given. Nobody may ask for more.
func (l *irqLine) settle() {
	for l.asked.Load() != 0 {
		runtime.Gosched()
	}
}
