package x86

import "github.com/anthropics/boxlite/pkg/guestmem"

// Types of memory map entries: E820 and XEN_HVM_MEMMAP_TYPE_* agree on them
// (xen/include/public/arch-x86/hvm/start_info.h; ACPI 6.2 §15).
const (
	e820RAM      = 1
	e820Reserved = 2
)

type e820Entry struct {
	addr, size uint64
	typ        uint32
}

// memMap describes RAM to the kernel. The interrupt controllers and virtio-mmio
// are no RAM and have drivers that know where they are, so they are not in it.
func memMap(mem *guestmem.Memory) []e820Entry {
	low := lowEnd(mem)
	m := []e820Entry{
		{0, lowReserved, e820RAM},
		{lowReserved, highMemory - lowReserved, e820Reserved},
		{highMemory, low - highMemory, e820RAM},
		{IdentityMapAddr, kvmReservedSize, e820Reserved},
	}
	for _, r := range mem.Regions()[1:] {
		m = append(m, e820Entry{uint64(r.Base), uint64(len(r.Bytes)), e820RAM})
	}
	return m
}
