package kvm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

// Probe runs tiny guests that do, one at a time, what a Linux kernel does in
// kernel mode, and measures what exits cost. It takes some 50 ms, less than 2 s
// on the slowest hosts, and ends early with an error when ctx does: no guest
// can make it hang. An error from opening /dev/kvm says what to do.
func Probe(ctx context.Context) (Report, error) {
	type result struct {
		r   Report
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: see the package
		r, err := probeHost(ctx)
		done <- result{r, err}
	}()
	v := <-done
	return v.r, v.err
}

// Time limits. An answer takes microseconds; the limits only matter where
// something is wrong.
const (
	probePatience = 500 * time.Millisecond // for one answer
	probeTries    = 6                      // of a probe that fails
	probeMeasure  = 20 * time.Millisecond  // for one measurement
)

func probeHost(ctx context.Context) (r Report, err error) {
	s, err := openSystem(devicePath, Options{})
	if err != nil {
		return Report{}, err
	}
	defer s.Close()
	r = Report{APIVersion: apiVersion, MaxCPUs: s.maxCPUs, Module: moduleName(), Nested: hostIsVirtual()}
	p, err := newProbeMachine(ctx, s)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	table := cpuidFor(s.arch.cpuid, cpuidPolicy{cpus: 1})
	for _, c := range probes {
		if !c.needs.in(table) {
			continue
		}
		ok, err := p.try(c)
		if err != nil {
			return r, err
		}
		if !ok {
			r.Missing = append(r.Missing, c.name)
		}
	}
	r.Usable = len(r.Missing) == 0
	if !r.Usable {
		r.Remedy = unusableRemedy(r)
	}
	if r.TSCKHz, err = ioctlInt(p.cpu.fd, cmdGetTSCKHz, 0); err != nil {
		return r, fmt.Errorf("kvm: probe: %w", err)
	}
	var clock clockData
	if _, err := ioctlPtr(p.vm.fd, cmdGetClock, &clock); err != nil {
		return r, fmt.Errorf("kvm: probe: %w", err)
	}
	r.TSCStable = clock.Flags&clockTSCStable != 0
	return r, p.measure(&r)
}

func unusableRemedy(r Report) string {
	const use = "use a host with hardware virtualization (VT-x or AMD-V)"
	switch {
	case r.Module != "kvm_intel" && r.Module != "kvm_amd":
		return fmt.Sprintf("this machine's KVM (module %s) cannot run kernels: %s, or a cloud machine with nested virtualization turned on", r.Module, use)
	case r.Nested:
		return "the hypervisor below this virtual machine is incomplete: update it, or " + use
	default:
		return "update the host's kernel and firmware, or " + use
	}
}

// probeMachine is a VM with one vCPU for probes.
type probeMachine struct {
	ctx context.Context
	vm  *vm
	cpu *vcpu
	mem *guestmem.Memory
}

// Guest memory of probes. TSS and stack need no contents.
const (
	probeCodeAddr    = 0x1000
	probeTailAddr    = 0x1100
	probeUserAddr    = 0x1200
	probeHandlerAddr = 0x1800
	probeGDTAddr     = 0x2000
	probePointerAddr = 0x2100
	probeIDTAddr     = 0x3000
	probeTSSAddr     = 0x9000
	probeStackAddr   = 0xf000
	probeTablesAddr  = 0x40000
	probeRAM         = 0x80000
	probeMMIOAddr    = 0xd000_0000

	probeGDTSize = 0x40
	probeIDTSize = 256 * 16
)

func newProbeMachine(ctx context.Context, s *system) (_ *probeMachine, err error) {
	p := &probeMachine{ctx: ctx}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	v, err := s.NewVM(hv.Config{CPUs: 1})
	if err != nil {
		return p, err
	}
	p.vm = v.(*vm)
	if p.mem, err = guestmem.New(guestmem.Range{Size: probeRAM}); err != nil {
		return p, err
	}
	p.loadPageTables()
	if err := v.Map(p.mem.Regions()[0]); err != nil {
		return p, err
	}
	c, err := v.NewVCPU(0)
	if err != nil {
		return p, err
	}
	p.cpu = c.(*vcpu)
	return p, nil
}

func (p *probeMachine) close() error {
	var errs []error
	if p.cpu != nil {
		errs = append(errs, p.cpu.Close())
	}
	if p.vm != nil {
		errs = append(errs, p.vm.Close())
	}
	if p.mem != nil {
		errs = append(errs, p.mem.Close())
	}
	return errors.Join(errs...)
}

// reset loads code and everything around it anew, and starts at the code.
func (p *probeMachine) reset(code, tail []byte, protected bool) error {
	ram := p.mem.Regions()[0].Bytes
	copy(ram[probeCodeAddr:], code)
	copy(ram[probeTailAddr:], tail)
	copy(ram[probeUserAddr:], probeUserCode)
	loadTables(ram)
	entry := hv.X86Entry{RIP: probeCodeAddr, RSP: probeStackAddr}
	if !protected {
		entry.Long, entry.CR3 = true, probeTablesAddr
	}
	if err := p.cpu.SetEntry(hv.Entry{X86: &entry}); err != nil {
		return err
	}
	var s sregs
	if _, err := ioctlPtr(p.cpu.fd, cmdGetSregs, &s); err != nil {
		return err
	}
	s.GDT = dtable{Base: probeGDTAddr, Limit: probeGDTSize - 1}
	s.IDT = dtable{Base: probeIDTAddr, Limit: probeIDTSize - 1}
	s.TR.Base = probeTSSAddr
	_, err := ioctlPtr(p.cpu.fd, cmdSetSregs, &s)
	return err
}

// loadTables writes the descriptor tables and what serves interrupts. Segments
// are those of SetEntry and, from 0x30, flat data and code of user mode.
func loadTables(ram []byte) {
	gdt := ram[probeGDTAddr:]
	le.PutUint64(gdt[selectorCode:], 0x00af_9b00_0000_ffff)
	le.PutUint64(gdt[selectorData:], 0x00cf_9300_0000_ffff)
	le.PutUint64(gdt[selectorTSS:], 0x0000_8900_0000_0067|probeTSSAddr<<16) // available TSS
	le.PutUint64(gdt[selectorTSS+8:], 0)
	le.PutUint64(gdt[0x30:], 0x00cf_f300_0000_ffff)
	le.PutUint64(gdt[0x38:], 0x00af_fb00_0000_ffff)
	// Operands of LGDT and LIDT.
	le.PutUint16(ram[probePointerAddr:], probeGDTSize-1)
	le.PutUint64(ram[probePointerAddr+2:], probeGDTAddr)
	le.PutUint16(ram[probePointerAddr+0x10:], probeIDTSize-1)
	le.PutUint64(ram[probePointerAddr+0x12:], probeIDTAddr)

	handlers := []struct {
		vector int
		code   []byte
	}{{3, probeHandlerCount}, {6, probeHandlerSkip}, {14, probeHandlerFault}, {0x40, probeHandlerTimer}}
	for i, h := range handlers {
		at := probeHandlerAddr + 0x40*uint64(i)
		copy(ram[at:], h.code)
		// 64-bit interrupt gate.
		le.PutUint64(ram[probeIDTAddr+16*h.vector:], 0x0000_8e00_0000_0000|selectorCode<<16|at)
	}
}

// loadPageTables maps 4 GiB to themselves in pages of 2 MiB, open to user mode.
func (p *probeMachine) loadPageTables() {
	const present, large = 7, 1 << 7
	tables := p.mem.Regions()[0].Bytes[probeTablesAddr:]
	le.PutUint64(tables, probeTablesAddr+0x1000|present)
	for i := range uint64(4) {
		le.PutUint64(tables[0x1000+8*i:], probeTablesAddr+0x2000+i<<12|present)
	}
	for i := range uint64(4 * 512) {
		le.PutUint64(tables[0x2000+8*i:], i<<21|present|large)
	}
}

// guarded runs do with a limit after which its Run returns hv.ExitKicked.
func (p *probeMachine) guarded(limit time.Duration, do func() error) error {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.cpu.Kick() })
	defer func() {
		stop()
		p.cpu.kick.take() // one that came too late
	}()
	if err := do(); err != nil {
		return err
	}
	return p.ctx.Err()
}

// try runs one probe and reports whether the guest answered that all is well. One
// that fails is run again: the host may be busy, and an emulated CPU may let an
// interrupt in between sti and hlt, which then never ends.
func (p *probeMachine) try(c probe) (ok bool, err error) {
	for range probeTries {
		if ok, err = p.tryOnce(c); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (p *probeMachine) tryOnce(c probe) (ok bool, err error) {
	code, tail := slices.Concat(c.code, probeEnd), []byte(nil)
	if c.tail != nil {
		code, tail = c.code, slices.Concat(c.tail, probeEnd)
	}
	if c.code == nil {
		// Only the answer; the comparison is of nothing, so it must find equal flags first.
		code = slices.Concat([]byte{0x39, 0xc0}, probeEnd) // cmp eax, eax
	}
	if err := p.reset(code, tail, c.protected); err != nil {
		return false, fmt.Errorf("kvm: probe of %s: %w", c.name, err)
	}
	var e hv.Exit
	if err := p.guarded(probePatience, func() error { return p.cpu.Run(&e) }); err != nil {
		if ctxErr := p.ctx.Err(); ctxErr != nil {
			return false, fmt.Errorf("kvm: probe of %s: %w", c.name, ctxErr)
		}
		return false, nil // the host refuses to run it at all
	}
	return e.Reason == hv.ExitPIO && e.Write && e.Addr == 0x80 && e.Data[0] == 1, nil
}

// measure fills in the costs, as far as the guests for it run.
func (p *probeMachine) measure(r *Report) error {
	var e hv.Exit
	exits := func(code []byte, want hv.Reason, ns *float64) error {
		if err := p.reset(code, nil, false); err != nil {
			return err
		}
		return p.guarded(probePatience, func() error {
			n, start := 0, time.Now()
			for time.Since(start) < probeMeasure {
				for range 16 {
					if p.cpu.Run(&e) != nil || e.Reason != want {
						return nil // not measured
					}
				}
				n += 16
			}
			*ns = float64(time.Since(start).Nanoseconds()) / float64(n)
			return nil
		})
	}
	if err := errors.Join(
		exits(probePIO, hv.ExitPIO, &r.NsPerPIO),
		exits(probeMMIO, hv.ExitMMIO, &r.NsPerExit),
	); err != nil {
		return fmt.Errorf("kvm: probe: %w", err)
	}
	if err := p.guarded(2*probePatience, func() error { return p.measureLoop(&r.NsPerInstruction) }); err != nil {
		return fmt.Errorf("kvm: probe: %w", err)
	}
	n, start := 0, time.Now()
	for ; time.Since(start) < probeMeasure/4; n++ {
		if err := p.cpu.Kick(); err != nil {
			return err
		}
		if err := p.cpu.Run(&e); err != nil {
			return err
		}
	}
	r.NsPerKick = float64(time.Since(start).Nanoseconds()) / float64(n)
	return nil
}

// measureLoop lets the guest loop longer and longer, until what it costs to
// enter and leave it is small against the loop.
func (p *probeMachine) measureLoop(ns *float64) error {
	var e hv.Exit
	for turns := uint64(1000); turns < 1<<32; turns *= 4 {
		if err := p.reset(slices.Concat(probeLoop, probeEnd), nil, false); err != nil {
			return err
		}
		if _, err := ioctlPtr(p.cpu.fd, cmdSetRegs, &regs{RIP: probeCodeAddr, RSP: probeStackAddr, RBX: turns, RFLAGS: rflagsReserved}); err != nil {
			return err
		}
		start := time.Now()
		if p.cpu.Run(&e) != nil || e.Reason != hv.ExitPIO {
			return nil // not measured
		}
		t := time.Since(start)
		*ns = float64(t.Nanoseconds()) / float64(2*turns)
		if t >= probeMeasure/2 {
			break
		}
	}
	return nil
}
