package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// archVCPU is the state of an x86 vCPU that SetEntry starts from.
type archVCPU struct {
	reset  sregs      // control registers and segments after creation
	events vcpuEvents // nothing pending
}

// Local APIC registers (Intel SDM vol. 3, table 11-1) and delivery modes.
const (
	apicISR    = 0x100 // in service
	apicIRR    = 0x200 // requested
	apicLVT0   = 0x350
	apicLVT1   = 0x360
	apicNMI    = 4 << 8
	apicExtINT = 7 << 8
)

// Model-specific registers that differ from KVM's own reset values.
const (
	msrMiscEnable  = 0x1a0
	msrPAT         = 0x277
	msrMTRRDefType = 0x2ff

	miscEnableFastString = 1 << 0
	patReset             = 0x0007_0406_0007_0406
	// MTRRs on, all memory write-back: a guest that finds them off turns PAT off too.
	mtrrEnableWriteBack = 1<<11 | 6
)

func (c *vcpu) archInit(v *vm) error {
	khz, err := ioctlInt(c.fd, cmdGetTSCKHz, 0)
	if err != nil {
		return err
	}
	table := new(cpuid2)
	entries := cpuidFor(v.sys.arch.cpuid, cpuidPolicy{
		id: c.id, cpus: v.cpus, tscKHz: uint32(khz),
		deadline: v.sys.arch.tscDeadline, nested: v.sys.opts.Nested,
	})
	if len(entries) > len(table.Entries) {
		return fmt.Errorf("%d CPUID entries, have room for %d", len(entries), len(table.Entries))
	}
	table.N = uint32(copy(table.Entries[:], entries))
	if _, err := ioctlPtr(c.fd, cmdSetCPUID2, table); err != nil {
		return err
	}
	if err := c.setMSRs(); err != nil {
		return err
	}
	// FNINIT and LDMXCSR defaults: all exceptions masked, 64-bit precision.
	if _, err := ioctlPtr(c.fd, cmdSetFPU, &fpu{FCW: 0x37f, MXCSR: 0x1f80}); err != nil {
		return err
	}
	if err := c.setLVT(); err != nil {
		return err
	}
	if _, err := ioctlPtr(c.fd, cmdGetVCPUEvents, &c.arch.events); err != nil {
		return err
	}
	_, err = ioctlPtr(c.fd, cmdGetSregs, &c.arch.reset)
	return err
}

func (c *vcpu) setMSRs() error {
	misc := &msrs{N: 1, Entries: [maxMSRs]msrEntry{{Index: msrMiscEnable}}}
	n, err := ioctlPtr(c.fd, cmdGetMSRs, misc)
	if err != nil {
		return err
	}
	set := new(msrs)
	add := func(index uint32, data uint64) {
		set.Entries[set.N] = msrEntry{Index: index, Data: data}
		set.N++
	}
	add(msrPAT, patReset)
	add(msrMTRRDefType, mtrrEnableWriteBack)
	if n == 1 { // a host that cannot read it has none
		add(msrMiscEnable, misc.Entries[0].Data|miscEnableFastString)
	}
	n, err = ioctlPtr(c.fd, cmdSetMSRs, set)
	if err != nil {
		return err
	}
	if n != int(set.N) { // KVM API §4.19: it stops at the first one it refuses
		return fmt.Errorf("MSR %#x: %w", set.Entries[n].Index, os.NewSyscallError(cmdSetMSRs.name, unix.EINVAL))
	}
	return nil
}

// setLVT wires the boot CPU as the MP specification wants it after a firmware
// has run: the PICs on LINT0, NMI on LINT1. INIT resets those of all others.
func (c *vcpu) setLVT() error {
	if c.id != 0 {
		return nil
	}
	lapic := new(lapicState)
	if _, err := ioctlPtr(c.fd, cmdGetLAPIC, lapic); err != nil {
		return err
	}
	le.PutUint32(lapic.Regs[apicLVT0:], apicExtINT)
	le.PutUint32(lapic.Regs[apicLVT1:], apicNMI)
	_, err := ioctlPtr(c.fd, cmdSetLAPIC, lapic)
	return err
}

var errNoX86Entry = errors.New("entry names no x86 registers")
