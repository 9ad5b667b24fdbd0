package kvm

import "fmt"

// DumpRegisters implements [hv.RegisterDumper].
func (c *vcpu) DumpRegisters() (string, error) {
	var r regs
	var s sregs
	if _, err := ioctlPtr(c.fd, cmdGetRegs, &r); err != nil {
		return "", fmt.Errorf("kvm: registers of vCPU %d: %w", c.id, err)
	}
	if _, err := ioctlPtr(c.fd, cmdGetSregs, &s); err != nil {
		return "", fmt.Errorf("kvm: registers of vCPU %d: %w", c.id, err)
	}
	var l lapicState
	if _, err := ioctlPtr(c.fd, cmdGetLAPIC, &l); err != nil {
		return "", fmt.Errorf("kvm: registers of vCPU %d: %w", c.id, err)
	}
	var m mpState
	if _, err := ioctlPtr(c.fd, cmdGetMPState, &m); err != nil {
		return "", fmt.Errorf("kvm: registers of vCPU %d: %w", c.id, err)
	}
	return fmt.Sprintf(`rip %016x rsp %016x rflags %08x
rax %016x rbx %016x rcx %016x rdx %016x
rsi %016x rdi %016x rbp %016x
r8  %016x r9  %016x r10 %016x r11 %016x
r12 %016x r13 %016x r14 %016x r15 %016x
cr0 %08x cr2 %016x cr3 %016x cr4 %08x cr8 %x efer %x apic %x
cs %04x base %x limit %x type %x dpl %d l %d db %d  ss %04x  ds %04x  fs base %x  gs base %x
gdt %x limit %x  idt %x limit %x  tr %04x base %x limit %x
interrupts in service %x requested %x  state %d
`,
		r.RIP, r.RSP, r.RFLAGS, r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15,
		s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER, s.APICBase,
		s.CS.Selector, s.CS.Base, s.CS.Limit, s.CS.Type, s.CS.DPL, s.CS.L, s.CS.DB, s.SS.Selector, s.DS.Selector, s.FS.Base, s.GS.Base,
		s.GDT.Base, s.GDT.Limit, s.IDT.Base, s.IDT.Limit, s.TR.Selector, s.TR.Base, s.TR.Limit,
		l.vectors(apicISR), l.vectors(apicIRR), m.State), nil
}

// vectors lists the bits that are set in one of the 256-bit registers of a local APIC.
func (l *lapicState) vectors(reg int) []byte {
	var set []byte
	for v := range 256 {
		if l.Regs[reg+v/32*16+v%32/8]>>(v%8)&1 != 0 {
			set = append(set, byte(v))
		}
	}
	return set
}
