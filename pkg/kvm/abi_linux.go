//go:build amd64

package kvm

// Numbers and structures of linux/kvm.h that all architectures share, in its
// own order and field order. TestABI compares them with the installed header.

const apiVersion = 12 // KVM_API_VERSION

// ioctls of /dev/kvm
var (
	cmdGetAPIVersion   = cmd{0xae00, "KVM_GET_API_VERSION"}
	cmdCreateVM        = cmd{0xae01, "KVM_CREATE_VM"}
	cmdCheckExtension  = cmd{0xae03, "KVM_CHECK_EXTENSION"} // also of a VM
	cmdGetVCPUMmapSize = cmd{0xae04, "KVM_GET_VCPU_MMAP_SIZE"}
)

// ioctls of a VM
var (
	cmdCreateVCPU          = cmd{0xae41, "KVM_CREATE_VCPU"}
	cmdSetUserMemoryRegion = cmd{0x4020ae46, "KVM_SET_USER_MEMORY_REGION"}
	cmdIRQLine             = cmd{0x4008ae61, "KVM_IRQ_LINE"}
	cmdIOEventFD           = cmd{0x4040ae79, "KVM_IOEVENTFD"}
	cmdEnableCap           = cmd{0x4068aea3, "KVM_ENABLE_CAP"}
)

// ioctls of a vCPU
var (
	cmdRun           = cmd{0xae80, "KVM_RUN"}
	cmdSetSignalMask = cmd{0x4004ae8b, "KVM_SET_SIGNAL_MASK"}
)

// capabilities (KVM_CAP_…)
const (
	capIRQChip          = 0
	capUserMemory       = 3
	capSetTSSAddr       = 4
	capExtCPUID         = 7
	capNRMemslots       = 10
	capMPState          = 14
	capIOEventFD        = 36
	capSetIdentityMap   = 37 // KVM_CAP_SET_IDENTITY_MAP_ADDR
	capVCPUEvents       = 41
	capGetTSCKHz        = 61
	capMaxVCPUs         = 66
	capTSCDeadlineTimer = 72
	capReadonlyMem      = 81
	capImmediateExit    = 136
	capPMUCapability    = 212
)

// exit reasons (KVM_EXIT_…)
const (
	exitUnknown       = 0
	exitIO            = 2
	exitHLT           = 5
	exitMMIO          = 6
	exitShutdown      = 8
	exitFailEntry     = 9
	exitInternalError = 17
	exitSystemEvent   = 24
)

const (
	exitIOOut = 1 // KVM_EXIT_IO_OUT

	systemEventShutdown = 1 // KVM_SYSTEM_EVENT_…
	systemEventReset    = 2
)

// struct kvm_run: offsets of what is read from the mapping of a vCPU
const (
	runImmediateExit = 1
	runExitReason    = 8
	runUnion         = 32 // the exit's own structure

	ioDirection  = runUnion + 0
	ioSize       = runUnion + 1
	ioPort       = runUnion + 2
	ioCount      = runUnion + 4
	ioDataOffset = runUnion + 8

	mmioPhysAddr = runUnion + 0
	mmioData     = runUnion + 8
	mmioLen      = runUnion + 16
	mmioIsWrite  = runUnion + 20

	hwExitReason         = runUnion // hw.hardware_exit_reason
	failEntryReason      = runUnion // fail_entry.hardware_entry_failure_reason
	internalSuberror     = runUnion
	systemEventType      = runUnion
	runSize              = 2352 // of the structure; the mapping is larger
	mmioWidth        int = 8    // sizeof mmio.data
)

type userspaceMemoryRegion struct { // kvm_userspace_memory_region
	Slot          uint32
	Flags         uint32
	GuestPhysAddr uint64
	MemorySize    uint64
	UserspaceAddr uint64
}

const memReadonly = 2 // KVM_MEM_READONLY

type irqLevel struct { // kvm_irq_level
	IRQ   uint32
	Level uint32
}

type ioeventfd struct { // kvm_ioeventfd
	DataMatch uint64
	Addr      uint64
	Len       uint32
	FD        int32
	Flags     uint32
	_         [36]byte
}

const ioeventfdDataMatch = 1 // KVM_IOEVENTFD_FLAG_DATAMATCH

type enableCap struct { // kvm_enable_cap
	Cap   uint32
	Flags uint32
	Args  [4]uint64
	_     [64]byte
}

type signalMask struct { // kvm_signal_mask with the kernel's sigset_t behind it
	Len uint32
	Set [8]byte
}
