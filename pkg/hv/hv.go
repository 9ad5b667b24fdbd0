// Package hv is the contract of a hypervisor: what KVM and Hypervisor.framework
// both offer to a machine. Backends report why a vCPU stopped and know nothing
// of devices. Package hvtest is the suite that every backend passes.
package hv

import (
	"errors"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// ErrUnsupported says that this system has no such hypervisor or ability.
var ErrUnsupported = errors.New("not supported on this system")

// Hypervisor creates virtual machines. Its methods may be called from any goroutine.
type Hypervisor interface {
	Name() string // "kvm" or "hvf"
	NewVM(Config) (VM, error)
	Close() error
}

// Config is what a VM must know before it exists.
type Config struct {
	CPUs int // number of vCPUs that NewVCPU will create, at least 1
}

// VM is a guest-physical address space with interrupt controllers and no CPU
// yet. Map and Unmap exclude each other; SetIRQ may be called from any goroutine.
type VM interface {
	// Map makes a region visible to the guest (KVM API §4.35; hv_vm_map). It must
	// not overlap a mapped one, and its memory must stay until Close or Unmap.
	Map(guestmem.Region) error
	// Unmap takes away the region mapped at exactly this address.
	Unmap(guestmem.GPA) error
	// NewVCPU creates vCPU id, 0 being the one that boots. It must be called on
	// the locked OS thread that will call Run.
	NewVCPU(id int) (VCPU, error)
	// SetIRQ drives an interrupt line: the GSI of the IOAPIC on x86, the SPI on
	// arm64. It neither waits nor allocates.
	SetIRQ(line uint32, level bool) error
	// Close frees the VM. All vCPUs must be closed before.
	Close() error
}

// VCPU is one virtual CPU. All methods but Kick belong to the thread that created it.
type VCPU interface {
	// SetEntry sets the registers that the guest starts with.
	SetEntry(Entry) error
	// Run executes the guest until something needs the caller, and fills Exit.
	// Exit.Data aliases memory of the backend until the next Run, which
	// completes a read with what the caller put there (KVM API §5). Run of a
	// secondary CPU blocks until the guest starts it (INIT/SIPI, PSCI CPU_ON).
	// An error means that the host refused; guest faults are exits. Run does
	// not allocate.
	Run(*Exit) error
	// Kick makes Run return ExitKicked, now or on its next call; kicks before
	// that Run returns may merge, none is lost. Any goroutine may call it, also
	// after Close, when it does nothing.
	Kick() error
	// Close frees the vCPU.
	Close() error
}

// Reason says why Run returned.
type Reason uint8

const (
	ExitUnknown  Reason = iota // Raw is the backend's own code
	ExitMMIO                   // access to guest-physical memory that is not mapped
	ExitPIO                    // x86 port access
	ExitHalt                   // the CPU halted and no in-kernel interrupt controller waits for it
	ExitShutdown               // triple fault or a request to power off
	ExitReset                  // a request to restart
	ExitKicked                 // Kick
	ExitFailed                 // the hardware or the hypervisor's emulator gave up; Raw is its code
	ExitCount                  // number of reasons, for tables
)

var reasonNames = [ExitCount]string{"unknown", "mmio", "pio", "halt", "shutdown", "reset", "kicked", "failed"}

func (r Reason) String() string {
	if r < ExitCount {
		return reasonNames[r]
	}
	return "invalid"
}

// Exit is one return of the guest to the VMM. It is reused from Run to Run.
type Exit struct {
	Reason Reason
	Write  bool   // direction of MMIO and PIO, as the guest sees it
	Width  int    // bytes of one access: 1, 2, 4 or 8
	Addr   uint64 // guest-physical address or port
	Data   []byte // what is written, or room for what is read; for string I/O several accesses of Width, in order
	Raw    uint64 // exit code of the backend
	Detail uint64 // suberror or hardware reason that goes with Raw
}

// Entry is the register state a vCPU starts with. Exactly one field is set.
type Entry struct {
	X86   *X86Entry
	ARM64 *ARM64Entry
}

// X86Entry starts an x86 CPU with flat segments and interrupts off: in 32-bit
// protected mode without paging, or in 64-bit mode with the page tables at CR3.
type X86Entry struct {
	Long bool // 64-bit mode; else 32-bit
	CR3  uint64
	RIP  uint64
	RSP  uint64
	RBX  uint64
	RSI  uint64
}

// ARM64Entry starts an arm64 CPU at EL1h with the MMU off and all exceptions masked.
type ARM64Entry struct {
	PC uint64
	X0 uint64 // address of the device tree
}

// The abilities below are optional. The machine looks for them once, by type.

// IOEventer turns guest writes into eventfd signals without an exit to the VMM.
type IOEventer interface {
	// RegisterIOEvent signals fd when the guest writes the 32-bit value at an
	// MMIO address (KVM API §4.59). The write then causes no exit.
	RegisterIOEvent(fd int, at guestmem.GPA, value uint32) error
}

// ReadOnlyMapper shows the guest memory that only the host writes.
type ReadOnlyMapper interface {
	// MapReadOnly makes a region visible as Map does, until Unmap or Close, and with
	// the same rules. The guest reads it without an exit; a write does not change it
	// and is an ExitMMIO, or the signal that RegisterIOEvent asked for at that address
	// (KVM API §4.35, KVM_MEM_READONLY).
	MapReadOnly(guestmem.Region) error
}

// RegisterDumper describes a stopped vCPU for a crash report.
type RegisterDumper interface {
	// DumpRegisters returns one line per group of registers. Same thread as Run.
	DumpRegisters() (string, error)
}
