package machine

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/hv"
)

// cpu is one vCPU: a goroutine that owns an OS thread, creates the vCPU there,
// runs it and handles its exits in place.
type cpu struct {
	m     *Machine
	id    int
	start chan struct{}
	vcpu  hv.VCPU // set before ready is answered; Kick may be called from anywhere
	stats cpuStats
	trace trace
}

// cpuStats is written by the vCPU thread alone and read by anybody, so plain
// stores of incremented values are enough.
type cpuStats struct {
	exits [hv.ExitCount]atomic.Uint64
}

func (s *cpuStats) count(r hv.Reason) {
	c := &s.exits[r]
	c.Store(c.Load() + 1)
}

// addCPUs creates the vCPUs, each on its own thread.
func (m *Machine) addCPUs(n int) error {
	for id := range n {
		c := &cpu{m: m, id: id, start: make(chan struct{})}
		ready := make(chan error, 1)
		m.cpuDone.Add(1)
		go c.thread(ready)
		if err := <-ready; err != nil {
			return fmt.Errorf("machine: create vCPU %d: %w", id, err)
		}
		m.cpus = append(m.cpus, c)
	}
	return nil
}

// thread never unlocks: its signal mask must die with it.
func (c *cpu) thread(ready chan<- error) {
	defer c.m.cpuDone.Done()
	runtime.LockOSThread()
	vcpu, err := c.m.vm.NewVCPU(c.id)
	if err != nil {
		ready <- err
		return
	}
	defer vcpu.Close()
	if c.id == 0 {
		e := c.m.entry
		err = vcpu.SetEntry(hv.Entry{X86: &hv.X86Entry{
			Long: e.Long, CR3: e.CR3, RIP: e.RIP, RSP: e.RSP, RBX: e.RBX, RSI: e.RSI,
		}})
		if err != nil {
			ready <- err
			return
		}
	}
	c.vcpu = vcpu
	ready <- nil
	<-c.start
	c.m.outcome <- c.loop()
}

func (c *cpu) kick() {
	// The only error is that of a thread that is gone, which needs no kick.
	_ = c.vcpu.Kick()
}

// loop runs the guest until this vCPU is done for.
func (c *cpu) loop() Outcome {
	exit := new(hv.Exit)
	for !c.m.stop.Load() {
		if err := c.vcpu.Run(exit); err != nil {
			return c.outcome(hv.ExitFailed, fmt.Errorf("machine: run vCPU %d: %w", c.id, err))
		}
		c.stats.count(exit.Reason)
		switch exit.Reason {
		case hv.ExitMMIO:
			c.trace.add(exit)
			if exit.Write {
				c.m.bus.writeMMIO(exit.Addr, exit.Data)
			} else {
				c.m.bus.readMMIO(exit.Addr, exit.Data)
			}
		case hv.ExitPIO:
			c.trace.add(exit)
			if c.m.bus.port(exit) {
				return c.outcome(hv.ExitReset, nil)
			}
		case hv.ExitKicked:
		case hv.ExitHalt, hv.ExitShutdown, hv.ExitReset:
			c.trace.add(exit)
			return c.outcome(exit.Reason, nil)
		default:
			c.trace.add(exit)
			return c.outcome(exit.Reason, fmt.Errorf("machine: vCPU %d stopped: %v exit, code %d, detail %#x", c.id, exit.Reason, exit.Raw, exit.Detail))
		}
	}
	return c.outcome(hv.ExitKicked, nil)
}

func (c *cpu) outcome(r hv.Reason, err error) Outcome {
	o := Outcome{Reason: r, CPU: c.id, Err: err}
	if err != nil {
		if d, ok := c.vcpu.(hv.RegisterDumper); ok {
			o.Registers, _ = d.DumpRegisters() // best effort: the error at hand is the news
		}
	}
	return o
}
