// Package machine is one virtual machine: address map, bus, interrupt lines and
// vCPU loops. It is the only place where the hypervisor backends, the virtio
// devices and the kernel loader meet, and it can be used alone by whoever wants
// to boot a kernel.
//
//	m, err := machine.New(machine.Config{CPUs: 1, MemoryMiB: 256, Kernel: f, Serial: os.Stdout})
//	outcome, err := m.Run(ctx)
//	m.Close()
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine/serial"
	"github.com/anthropics/boxlite/pkg/virtio"
)

// Limits of a machine, for callers that check before they build one.
const (
	MaxCPUs      = 64
	MinMemoryMiB = x86.MinMemory >> 20
	MaxMemoryMiB = x86.MaxMemory >> 20
	MaxDevices   = x86.MaxVirtio
	// InterruptLines is how many devices have a line of their own. Those at later
	// places share the lines of the first ones.
	InterruptLines = x86.VirtioLines
)

// Config describes a machine.
type Config struct {
	CPUs      int      // vCPUs, 1 to MaxCPUs
	MemoryMiB int      // RAM, MinMemoryMiB to MaxMemoryMiB
	Kernel    *os.File // vmlinux with a PVH note, or bzImage
	Initrd    *os.File // nil for none
	Cmdline   string   // kernel command line; the devices are appended

	// ShareFiles maps kernel and initrd copy-on-write instead of copying them:
	// guests of one kernel then share what they do not write of it, and boot at
	// about twice the cost.
	ShareFiles bool

	// Devices are put on the virtio-mmio bus in this order.
	Devices []virtio.Device
	// Serial receives what the guest writes to COM1; nil discards it.
	Serial io.Writer
	// Log receives warnings about the guest's behaviour; nil discards them.
	Log *slog.Logger
	// Open returns the hypervisor; nil means this host's own.
	Open func() (hv.Hypervisor, error)
}

// Machine is a VM that was built and may run once.
type Machine struct {
	hyp   hv.Hypervisor
	vm    hv.VM
	mem   *guestmem.Memory
	bus   bus
	slots []*slot
	irqs  map[uint32]*irqLine // by GSI
	acks  *virtio.Doorbell    // takes acknowledgements that nobody needs
	uart  *serial.UART
	cpus  []*cpu
	entry x86.Entry

	registers *guestmem.Memory // of all devices, as the guest reads them; nil where it cannot

	ran     bool
	stop    atomic.Bool
	outcome chan Outcome
	cpuDone sync.WaitGroup
	closing sync.Once
	closed  error
}

// New builds a machine: RAM, kernel, devices and vCPUs. Nothing runs yet. On an
// error nothing is left behind.
func New(cfg Config) (_ *Machine, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m := &Machine{irqs: make(map[uint32]*irqLine), outcome: make(chan Outcome, cfg.CPUs+1)}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	open := cfg.Open
	if open == nil {
		open = Open
	}
	if m.hyp, err = open(); err != nil {
		return nil, err
	}
	if m.vm, err = m.hyp.NewVM(hv.Config{CPUs: cfg.CPUs}); err != nil {
		return nil, fmt.Errorf("machine: create the VM: %w", err)
	}
	if err = m.addMemory(cfg.MemoryMiB); err != nil {
		return nil, err
	}
	m.bus.init(cfg.Log)
	if err = m.addSerial(cfg.Serial); err != nil {
		return nil, err
	}
	if err = m.addRegisters(len(cfg.Devices)); err != nil {
		return nil, err
	}
	for _, d := range cfg.Devices {
		if err = m.addDevice(d, cfg.Log); err != nil {
			return nil, err
		}
	}
	if err = m.load(&cfg); err != nil {
		return nil, err
	}
	if err = m.addCPUs(cfg.CPUs); err != nil {
		return nil, err
	}
	return m, nil
}

func (c *Config) check() error {
	switch {
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("machine: %d CPUs: choose 1 to %d", c.CPUs, MaxCPUs)
	case c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB:
		return fmt.Errorf("machine: %d MiB of memory: choose %d to %d", c.MemoryMiB, MinMemoryMiB, MaxMemoryMiB)
	case len(c.Devices) > MaxDevices:
		return fmt.Errorf("machine: %d devices: the most is %d", len(c.Devices), MaxDevices)
	case c.Kernel == nil:
		return errors.New("machine: no kernel")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (m *Machine) addMemory(mib int) error {
	ranges, err := x86.Ranges(uint64(mib) << 20)
	if err != nil {
		return err
	}
	if m.mem, err = guestmem.New(ranges...); err != nil {
		return err
	}
	for _, r := range m.mem.Regions() {
		if err := m.vm.Map(r); err != nil {
			return fmt.Errorf("machine: map RAM at %v: %w", r.Base, err)
		}
	}
	return nil
}

// Memory is the guest's RAM.
func (m *Machine) Memory() *guestmem.Memory { return m.mem }

// SerialInput takes what the guest shall read from COM1. A write waits while the
// UART's buffer is full, and fails once the machine is closed.
func (m *Machine) SerialInput() io.Writer { return m.uart }

// Run lets the guest run until it stops, ctx is cancelled or Stop is called,
// and says how it ended. It may be called once. All vCPUs have stopped when it
// returns; devices still answer until Close.
func (m *Machine) Run(ctx context.Context) (Outcome, error) {
	if m.ran {
		return Outcome{}, errors.New("machine: Run was called before")
	}
	m.ran = true
	release := context.AfterFunc(ctx, m.Stop)
	defer release()
	for _, c := range m.cpus {
		close(c.start)
	}
	first := <-m.outcome // every vCPU loop reports once; the first to end decides
	m.Stop()
	m.cpuDone.Wait()
	m.drainSerial()
	return first, first.Err
}

// drainLimit bounds the wait for a sink that does not take the guest's last words.
const drainLimit = 2 * time.Second

func (m *Machine) drainSerial() {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	// What the sink refused is counted as dropped; the guest's end is the news here.
	_ = m.uart.Drain(ctx)
}

// Stop makes Run return soon, from any goroutine, whatever the guest does.
// Stopping twice, or before Run, is allowed.
func (m *Machine) Stop() {
	m.stop.Store(true)
	for _, c := range m.cpus {
		c.kick()
	}
}

// Close stops the guest and frees everything. It may be called twice.
func (m *Machine) Close() error {
	m.closing.Do(func() {
		m.Stop()
		if !m.ran {
			for _, c := range m.cpus {
				close(c.start) // the loop sees stop before it enters the guest
			}
			m.ran = true
		}
		m.cpuDone.Wait()
		var errs []error
		for _, s := range m.slots {
			errs = append(errs, s.transport.Close())
		}
		for _, l := range m.irqs {
			l.settle()
		}
		if m.uart != nil {
			errs = append(errs, m.uart.Close())
		}
		if m.vm != nil {
			errs = append(errs, m.vm.Close())
		}
		if m.acks != nil {
			errs = append(errs, m.acks.Close())
		}
		if m.mem != nil {
			errs = append(errs, m.mem.Close())
		}
		if m.registers != nil {
			errs = append(errs, m.registers.Close())
		}
		if m.hyp != nil {
			errs = append(errs, m.hyp.Close())
		}
		m.closed = errors.Join(errs...)
	})
	return m.closed
}
