package machine

import (
	"fmt"
	"strings"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Outcome says how a machine ended.
type Outcome struct {
	// Reason of the first vCPU to end: ExitShutdown or ExitReset where the
	// guest ended itself, ExitKicked where the host did, ExitFailed or
	// ExitUnknown with Err where it could not go on.
	Reason    hv.Reason
	CPU       int    // which vCPU
	Err       error  // also returned by Run
	Registers string // of that vCPU, when Err is set and the backend can tell
}

// Stats are counters since the machine was built. They are read without
// stopping the guest, so they need not be of one instant.
type Stats struct {
	Exits   map[string]uint64 // returns to the VMM by reason, all vCPUs
	Devices []DeviceStats
	Serial  uint64 // bytes written to COM1
}

// DeviceStats are the counters of one virtio device.
type DeviceStats struct {
	Name          string
	Notifications uint64 // that came as exits; those by ioeventfd are not seen
	Interrupts    uint64
	DriverErrors  uint64
}

// Stats returns the counters.
func (m *Machine) Stats() Stats {
	s := Stats{Exits: make(map[string]uint64)}
	for _, c := range m.cpus {
		for r := range c.stats.exits {
			if n := c.stats.exits[r].Load(); n > 0 {
				s.Exits[hv.Reason(r).String()] += n
			}
		}
	}
	for _, d := range m.slots {
		s.Devices = append(s.Devices, d.stats())
	}
	s.Serial = m.bus.serialOut.Load()
	return s
}

// ExitTotal is the number of returns to the VMM so far: a cheap sign of life.
func (m *Machine) ExitTotal() uint64 {
	var n uint64
	for _, c := range m.cpus {
		for r := range c.stats.exits {
			n += c.stats.exits[r].Load()
		}
	}
	return n
}

// traceLen is how many of the last exits of a vCPU a report shows.
const traceLen = 16

// trace remembers the last exits of one vCPU. Only its thread writes it, and it
// may be read once that vCPU has stopped.
type trace struct {
	last [traceLen]traced
	next uint64
}

type traced struct {
	reason hv.Reason
	write  bool
	n      uint8
	addr   uint64
	data   [8]byte
}

func (t *trace) add(e *hv.Exit) {
	r := &t.last[t.next%traceLen]
	t.next++
	r.reason, r.write, r.addr = e.Reason, e.Write, e.Addr
	r.n = uint8(copy(r.data[:], e.Data))
}

// LastExits returns the last exits of each vCPU, oldest first, one a line. It
// must only be called after Run has returned.
func (m *Machine) LastExits() []string {
	var out []string
	for _, c := range m.cpus {
		from := c.trace.next - min(c.trace.next, traceLen)
		for i := from; i < c.trace.next; i++ {
			out = append(out, fmt.Sprintf("cpu%d %v", c.id, &c.trace.last[i%traceLen]))
		}
	}
	return out
}

func (r *traced) String() string {
	var b strings.Builder
	b.WriteString(r.reason.String())
	if r.reason == hv.ExitMMIO || r.reason == hv.ExitPIO {
		way := "read"
		if r.write {
			way = "write"
		}
		fmt.Fprintf(&b, " %s %#x", way, r.addr)
		if r.write {
			fmt.Fprintf(&b, " = %x", r.data[:r.n])
		}
	}
	return b.String()
}
