package kvm

// feature is the CPUID bit that a probe is conditional on. The zero value is none.
type feature struct {
	leaf, index uint32
	register    int // 0 to 3: EAX, EBX, ECX, EDX
	bit         uint
}

func (f feature) in(table []cpuidEntry) bool {
	if f == (feature{}) {
		return true
	}
	for _, e := range table {
		if e.Function == f.leaf && e.Index == f.index {
			return [...]uint32{e.EAX, e.EBX, e.ECX, e.EDX}[f.register]>>f.bit&1 != 0
		}
	}
	return false
}

// probe is one thing that a Linux kernel does in kernel mode.
type probe struct {
	name       string
	code, tail []byte
	protected  bool // starts in 32-bit mode
	needs      feature
}

// The order is that of a boot. Those that change the local APIC come last.
var probes = []probe{
	{name: "32-bit protected mode and port I/O", protected: true},
	{name: "64-bit mode", code: nil},
	{name: "the switch from 32-bit to 64-bit mode", code: probeLong, tail: probeLongTail, protected: true},
	{name: "lgdt, lidt, ltr and segment loads", code: probeTables, tail: probeTablesTail},
	{name: "cpuid", code: probeCPUID},
	{name: "rdmsr and wrmsr", code: probeMSR},
	{name: "swapgs", code: probeSwapGS},
	{name: "writes of control registers", code: probeControl},
	{name: "invlpg", code: probeInvlpg},
	{name: "debug registers", code: probeDebug},
	{name: "exceptions and iretq", code: probeUndefined},
	{name: "int3", code: probeBreakpoint},
	{name: "page faults", code: probePageFault},
	{name: "user mode and syscall", code: probeUser, tail: probeUserTail},
	{name: "locked instructions", code: probeAtomics},
	{name: "cmpxchg16b", code: probeCmpxchg16b},
	{name: "string instructions", code: probeStrings},
	{name: "x87", code: probeFPU},
	{name: "SSE2 and fxsave", code: probeSSE},
	{name: "memory fences", code: probeFences},
	{name: "rdtsc", code: probeTSC},
	{name: "verw", code: probeVERW},
	{name: "xsave and xrstor", code: probeXsave, needs: feature{leaf: 1, register: 2, bit: 26}},
	{name: "AVX", code: probeAVX, needs: feature{leaf: 1, register: 2, bit: 28}},
	{name: "BMI1", code: probeBMI1, needs: feature{leaf: 7, register: 1, bit: 3}},
	{name: "BMI2", code: probeBMI2, needs: feature{leaf: 7, register: 1, bit: 8}},
	{name: "popcnt", code: probePopcnt, needs: feature{leaf: 1, register: 2, bit: 23}},
	{name: "movbe", code: probeMovbe, needs: feature{leaf: 1, register: 2, bit: 22}},
	{name: "rdtscp", code: probeRDTSCP, needs: feature{leaf: 0x8000_0001, register: 3, bit: 27}},
	{name: "clflush", code: probeClflush, needs: feature{leaf: 1, register: 3, bit: 19}},
	{name: "rdrand", code: probeRDRAND, needs: feature{leaf: 1, register: 2, bit: 30}},
	{name: "rdgsbase and wrgsbase", code: probeFSGSBase, needs: feature{leaf: 7, register: 1, bit: 0}},
	{name: "stac and clac", code: probeSMAP, needs: feature{leaf: 7, register: 1, bit: 20}},
	{name: "invpcid", code: probeINVPCID, needs: feature{leaf: 7, register: 1, bit: 10}},
	{name: "the local APIC", code: probeAPIC},
	{name: "timer interrupts and hlt", code: probeTimer},
	{name: "x2APIC", code: probeX2APIC},
}
