package kvm

import "errors"

// archMaxCPUs bounds a VM to the APIC ids that an IOAPIC can address without
// interrupt remapping; 255 is the broadcast id.
const archMaxCPUs = 254

const remedyAbsent = "turn on VT-x or AMD-V in the firmware and run `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`; in a virtual machine, turn on nested virtualization; in a container, pass --device /dev/kvm"

// Linux 4.13 of 2017 has them all.
var requiredCaps = []namedCap{
	{capIRQChip, "KVM_CAP_IRQCHIP"},
	{capUserMemory, "KVM_CAP_USER_MEMORY"},
	{capSetTSSAddr, "KVM_CAP_SET_TSS_ADDR"},
	{capExtCPUID, "KVM_CAP_EXT_CPUID"},
	{capMPState, "KVM_CAP_MP_STATE"},
	{capIOEventFD, "KVM_CAP_IOEVENTFD"},
	{capSetIdentityMap, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
	{capVCPUEvents, "KVM_CAP_VCPU_EVENTS"},
	{capGetTSCKHz, "KVM_CAP_GET_TSC_KHZ"},
	{capReadonlyMem, "KVM_CAP_READONLY_MEM"},
	{capImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
}

// archSystem is what x86 asks of /dev/kvm once.
type archSystem struct {
	cpuid       []cpuidEntry // KVM_GET_SUPPORTED_CPUID
	tscDeadline bool
	pmuOff      bool // KVM_CAP_PMU_CAPABILITY is there
}

func (a *archSystem) init(s *system) error {
	table := &cpuid2{N: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd, cmdGetSupportedCPUID, table); err != nil {
		return err
	}
	if table.N > maxCPUIDEntries {
		return errors.New("KVM_GET_SUPPORTED_CPUID: more entries than asked for")
	}
	a.cpuid = table.Entries[:table.N]
	deadline, err := s.extension(capTSCDeadlineTimer)
	if err != nil {
		return err
	}
	pmu, err := s.extension(capPMUCapability)
	if err != nil {
		return err
	}
	a.tscDeadline, a.pmuOff = deadline != 0, pmu&pmuCapDisable != 0
	return nil
}
