package kvm

// Numbers and structures of asm/kvm.h on x86, in its own field order.

// ioctls of /dev/kvm
var cmdGetSupportedCPUID = cmd{0xc008ae05, "KVM_GET_SUPPORTED_CPUID"}

// ioctls of a VM
var (
	cmdSetTSSAddr         = cmd{0xae47, "KVM_SET_TSS_ADDR"}
	cmdSetIdentityMapAddr = cmd{0x4008ae48, "KVM_SET_IDENTITY_MAP_ADDR"}
	cmdCreateIRQChip      = cmd{0xae60, "KVM_CREATE_IRQCHIP"}
	cmdCreatePIT2         = cmd{0x4040ae77, "KVM_CREATE_PIT2"}
	cmdGetClock           = cmd{0x8030ae7c, "KVM_GET_CLOCK"}
)

// ioctls of a vCPU
var (
	cmdGetRegs       = cmd{0x8090ae81, "KVM_GET_REGS"}
	cmdSetRegs       = cmd{0x4090ae82, "KVM_SET_REGS"}
	cmdGetSregs      = cmd{0x8138ae83, "KVM_GET_SREGS"}
	cmdSetSregs      = cmd{0x4138ae84, "KVM_SET_SREGS"}
	cmdGetMSRs       = cmd{0xc008ae88, "KVM_GET_MSRS"}
	cmdSetMSRs       = cmd{0x4008ae89, "KVM_SET_MSRS"}
	cmdSetFPU        = cmd{0x41a0ae8d, "KVM_SET_FPU"}
	cmdGetLAPIC      = cmd{0x8400ae8e, "KVM_GET_LAPIC"}
	cmdSetLAPIC      = cmd{0x4400ae8f, "KVM_SET_LAPIC"}
	cmdSetCPUID2     = cmd{0x4008ae90, "KVM_SET_CPUID2"}
	cmdGetMPState    = cmd{0x8004ae98, "KVM_GET_MP_STATE"}
	cmdSetMPState    = cmd{0x4004ae99, "KVM_SET_MP_STATE"}
	cmdGetVCPUEvents = cmd{0x8040ae9f, "KVM_GET_VCPU_EVENTS"}
	cmdSetVCPUEvents = cmd{0x4040aea0, "KVM_SET_VCPU_EVENTS"}
	cmdGetTSCKHz     = cmd{0xaea3, "KVM_GET_TSC_KHZ"}
)

const (
	pitSpeakerDummy = 1 // KVM_PIT_SPEAKER_DUMMY
	mpStateRunnable = 0 // KVM_MP_STATE_RUNNABLE
	pmuCapDisable   = 1 // KVM_PMU_CAP_DISABLE
	cpuidFlagIndex  = 1 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
	maxCPUIDEntries = 256
	maxMSRs         = 16
)

type regs struct { // kvm_regs
	RAX, RBX, RCX, RDX uint64
	RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11   uint64
	R12, R13, R14, R15 uint64
	RIP, RFLAGS        uint64
}

type segment struct { // kvm_segment
	Base                           uint64
	Limit                          uint32
	Selector                       uint16
	Type                           uint8
	Present, DPL, DB, S, L, G, AVL uint8
	Unusable                       uint8
	_                              uint8
}

type dtable struct { // kvm_dtable
	Base  uint64
	Limit uint16
	_     [3]uint16
}

type sregs struct { // kvm_sregs
	CS, DS, ES, FS, GS, SS  segment
	TR, LDT                 segment
	GDT, IDT                dtable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

type fpu struct { // kvm_fpu
	FPR        [8][16]uint8
	FCW        uint16
	FSW        uint16
	FTWX       uint8
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]uint8
	MXCSR      uint32
	_          uint32
}

type lapicState struct { // kvm_lapic_state
	Regs [1024]byte
}

type msrEntry struct { // kvm_msr_entry
	Index uint32
	_     uint32
	Data  uint64
}

type msrs struct { // kvm_msrs and room for its entries
	N       uint32
	_       uint32
	Entries [maxMSRs]msrEntry
}

type cpuidEntry struct { // kvm_cpuid_entry2
	Function           uint32
	Index              uint32
	Flags              uint32
	EAX, EBX, ECX, EDX uint32
	_                  [3]uint32
}

type cpuid2 struct { // kvm_cpuid2 and room for its entries
	N       uint32
	_       uint32
	Entries [maxCPUIDEntries]cpuidEntry
}

type mpState struct { // kvm_mp_state
	State uint32
}

type pitConfig struct { // kvm_pit_config
	Flags uint32
	_     [15]uint32
}

type vcpuEvents struct { // kvm_vcpu_events
	Exception struct {
		Injected, Nr, HasErrorCode, Pending uint8
		ErrorCode                           uint32
	}
	Interrupt struct{ Injected, Nr, Soft, Shadow uint8 }
	NMI       struct{ Injected, Pending, Masked, _ uint8 }

	SIPIVector uint32
	Flags      uint32

	SMI         struct{ SMM, Pending, SMMInsideNMI, LatchedINIT uint8 }
	TripleFault struct{ Pending uint8 }

	_                   [26]uint8
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

type clockData struct { // kvm_clock_data
	Clock    uint64
	Flags    uint32
	_        uint32
	Realtime uint64
	HostTSC  uint64
	_        [4]uint32
}

const clockTSCStable = 2 // KVM_CLOCK_TSC_STABLE
