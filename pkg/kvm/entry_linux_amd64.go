package kvm

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Selectors of Linux's boot protocol (Documentation/arch/x86/boot.rst,
// __BOOT_CS and __BOOT_DS). No table in guest memory backs them: the CPU uses
// what it holds of a segment until the guest loads another.
const (
	selectorCode = 0x10
	selectorData = 0x18
	selectorTSS  = 0x20
)

const (
	segmentData = 3  // read/write, accessed
	segmentCode = 11 // execute/read, accessed
	segmentTSS  = 11 // busy 32- or 64-bit TSS, as VM entry demands (SDM vol. 3 §26.3.1.2)

	rflagsReserved = 1 << 1

	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10
)

// SetEntry implements [hv.VCPU]. It may be called again at any time between
// runs and then leaves nothing behind of interrupts and exceptions in flight;
// FPU, MSRs, local APIC and memory stay as they are.
func (c *vcpu) SetEntry(e hv.Entry) error {
	if e.X86 == nil || e.ARM64 != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, errNoX86Entry)
	}
	if err := c.settle(); err != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, err)
	}
	x := e.X86
	s := c.arch.reset
	flat := segment{Limit: 0xffffffff, Selector: selectorData, Type: segmentData, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = flat, flat, flat, flat, flat
	s.CS = segment{Limit: 0xffffffff, Selector: selectorCode, Type: segmentCode, Present: 1, DB: 1, S: 1, G: 1}
	s.TR = segment{Limit: 0x67, Selector: selectorTSS, Type: segmentTSS, Present: 1}
	s.LDT = segment{Unusable: 1}
	s.GDT, s.IDT = dtable{}, dtable{}
	s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER = cr0PE|cr0ET, 0, 0, 0, 0, 0
	if x.Long {
		s.CS.DB, s.CS.L = 0, 1
		s.CR0, s.CR3, s.CR4, s.EFER = s.CR0|cr0PG, x.CR3, cr4PAE, eferLME|eferLMA
	}
	r := regs{RIP: x.RIP, RSP: x.RSP, RBX: x.RBX, RSI: x.RSI, RFLAGS: rflagsReserved}
	if _, err := ioctlPtr(c.fd, cmdSetSregs, &s); err != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, err)
	}
	if _, err := ioctlPtr(c.fd, cmdSetRegs, &r); err != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, err)
	}
	if _, err := ioctlPtr(c.fd, cmdSetVCPUEvents, &c.arch.events); err != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, err)
	}
	if _, err := ioctlPtr(c.fd, cmdSetMPState, &mpState{mpStateRunnable}); err != nil {
		return fmt.Errorf("kvm: entry of vCPU %d: %w", c.id, err)
	}
	return nil
}
