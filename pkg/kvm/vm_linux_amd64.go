package kvm

import "fmt"

// archIRQLines is the number of pins of KVM's IOAPIC (KVM_IOAPIC_NUM_PINS).
const archIRQLines = 24

// Intel CPUs without "unrestricted guest" run real mode with pages of KVM's
// own in guest-physical space: one identity page table and three of TSS. They
// lie below the BIOS's 256 KiB at the end of 4 GiB, above every MMIO address
// of a machine. Nothing is visible there on other CPUs.
const (
	identityMapAddr = 0xfffbc000
	tssAddr         = 0xfffbd000
)

// archInit gives a new VM what must be there before its vCPUs.
func (v *vm) archInit() error {
	addr := uint64(identityMapAddr)
	if _, err := ioctlPtr(v.fd, cmdSetIdentityMapAddr, &addr); err != nil {
		return err
	}
	if _, err := ioctlInt(v.fd, cmdSetTSSAddr, tssAddr); err != nil {
		return err
	}
	if v.sys.arch.pmuOff {
		// No vPMU: leaf 0xa is cleared, and entries need not switch its MSRs.
		if err := v.enable(enableCap{Cap: capPMUCapability, Args: [4]uint64{pmuCapDisable}}); err != nil {
			return fmt.Errorf("turn the PMU off: %w", err)
		}
	}
	if _, err := ioctlInt(v.fd, cmdCreateIRQChip, 0); err != nil {
		return err
	}
	if v.sys.opts.PIT {
		// Port 0x61 is answered in the kernel too, or the guest's calibration loops exit.
		if _, err := ioctlPtr(v.fd, cmdCreatePIT2, &pitConfig{Flags: pitSpeakerDummy}); err != nil {
			return err
		}
	}
	return nil
}
