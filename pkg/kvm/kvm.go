// Package kvm runs virtual machines on Linux's /dev/kvm. It implements
// [github.com/anthropics/boxlite/pkg/hv] and knows no device and no boot
// protocol beyond the registers that [hv.Entry] names. "KVM API" in comments is
// Documentation/virt/kvm/api.rst.
//
// A VM has the in-kernel interrupt controllers (two PICs, one IOAPIC, a local
// APIC per vCPU) with KVM's default routing: GSI n is pin n of the IOAPIC, and
// GSI 0-15 are also the lines of the PICs. There is no PIT unless
// [Options.PIT]: guests learn the frequencies of TSC and APIC timer from CPUID
// and kvmclock, and need not measure them.
//
// A vCPU belongs to one locked OS thread, and a thread to one vCPU at a time.
// That thread keeps the kick signal and Go's preemption signal blocked for the
// rest of its life: do not unlock it when the vCPU is closed, but let the
// goroutine end.
//
// Run is a system call to Go's scheduler, which takes 20 us to 10 ms to give
// the P of a thread in a guest to other goroutines. A process whose GOMAXPROCS
// is larger than its number of vCPUs does not wait for that.
package kvm

// Options choose what a VM offers to its guest beyond what every Linux guest
// needs. The zero value is right for most.
type Options struct {
	// PIT adds the i8254 timer, for guests that know neither kvmclock nor the
	// TSC deadline timer.
	PIT bool
	// Nested shows VMX or SVM where the host allows it, so that the guest can
	// run virtual machines of its own.
	Nested bool
}
