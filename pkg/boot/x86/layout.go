// Package x86 loads x86-64 Linux: an uncompressed vmlinux by its PVH entry
// (the default: nothing to decompress) or a bzImage by the 64-bit boot
// protocol. It carries no build tag and runs on any host.
package x86

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

// The guest-physical address space. Nothing but this file holds an address.
//
//	0x0_0000_0000  page 0, unused: 0 means "absent" in start_info
//	0x0_0000_1000  PVH start_info, module list, memory map
//	0x0_0000_2000  boot_params, the "zero page" of the 64-bit protocol
//	0x0_0000_4000  page tables of the 64-bit protocol, 6 pages
//	0x0_0000_f000  top of the stack that a kernel may use until it has its own
//	0x0_0002_0000  command line, 64 KiB
//	0x0_0009_e000  MP configuration table          -+
//	0x0_0009_fc00  MP floating pointer              | reserved in the memory map
//	0x0_000a_0000  where a PC has VGA and BIOS      |
//	0x0_000e_0000  ACPI tables, 16 KiB             -+
//	0x0_0010_0000  kernel (usually from 16 MiB), free RAM, initrd at the top
//	0x0_c000_0000  end of low RAM at the latest; hole for devices
//	0x0_d000_0000  virtio-mmio, 4 KiB each
//	0x0_fec0_0000  IOAPIC
//	0x0_fee0_0000  local APIC
//	0x0_fffb_c000  KVM's identity map page         -+ only used by Intel CPUs without
//	0x0_fffb_d000  KVM's task state segment, 3 pages-+ unrestricted guest; reserved
//	0x1_0000_0000  rest of RAM
const (
	startInfoAddr = 0x1000
	modListAddr   = startInfoAddr + 0x40
	memMapAddr    = startInfoAddr + 0x80
	zeroPageAddr  = 0x2000
	pageTableAddr = 0x4000
	stackTop      = 0xf000

	cmdlineAddr = 0x2_0000
	cmdlineRoom = 0x1_0000

	mpTableAddr   = 0x9_e000
	mpTableRoom   = mpPointerAddr - mpTableAddr
	mpPointerAddr = 0x9_fc00 // last KiB of base memory: MP specification 1.4 §4
	acpiAddr      = 0xe_0000 // ACPI 6.3 §5.2.5.1: the BIOS read-only memory space
	acpiRoom      = 0x4000
	lowReserved   = mpTableAddr
	highMemory    = 0x10_0000 // what is below belongs to tables; kernels start here

	// HoleBase is where low RAM ends at the latest, and HighBase where the
	// rest of it begins.
	HoleBase = 0xc000_0000
	HighBase = 0x1_0000_0000

	// VirtioBase is the window of virtio-mmio devices, VirtioSize the stride.
	VirtioBase = 0xd000_0000
	VirtioSize = 0x1000

	// IOAPICBase and LAPICBase are where KVM's in-kernel interrupt controllers sit.
	IOAPICBase = 0xfec0_0000
	LAPICBase  = 0xfee0_0000

	// IdentityMapAddr and TSSAddr are for KVM_SET_IDENTITY_MAP_ADDR and
	// KVM_SET_TSS_ADDR (KVM API §4.40, §4.36); one page and three.
	IdentityMapAddr = 0xfffb_c000
	TSSAddr         = 0xfffb_d000
	kvmReservedSize = 4 * guestmem.PageSize

	// COM1Port and COM1IRQ are the first serial port of a PC, 8 ports wide.
	COM1Port = 0x3f8
	COM1IRQ  = 4

	// MinMemory and MaxMemory bound RAM. The upper bound keeps all of it below
	// 2^39, which every CPU with nested paging can address.
	MinMemory = 16 << 20
	MaxMemory = 511 << 30

	// MaxCPUs is what 8-bit APIC ids leave beside the IOAPIC and the broadcast id.
	MaxCPUs = 254

	// MaxVirtio is how many devices still leave 600 bytes of a 2 KiB command line.
	MaxVirtio = 40

	ioapicPins = 24 // KVM's in-kernel IOAPIC
)

// virtioLines are the interrupts that devices get, in this order. The upper
// eight go first because KVM's default routing sends them to the IOAPIC alone,
// not to the PIC as well. Left out are the timer (0), keyboard (1), cascade (2,
// which Linux refuses), COM1 (4) and the clock (8), which a kernel may claim for
// itself without asking.
var virtioLines = [...]uint32{16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 9, 10, 11, 13, 14, 15, 12, 3}

// VirtioLines is the number of devices that have an interrupt line each.
const VirtioLines = len(virtioLines)

// Virtio returns address and interrupt of virtio-mmio device n, from 0 to
// MaxVirtio-1. From VirtioLines on, devices share the lines of the first ones,
// which Linux supports (drivers/virtio/virtio_mmio.c requests IRQF_SHARED). The
// lines are edge-triggered: devices that share one must not pulse it at the same
// time, or an edge of one can drown in the pulse of the other and the guest waits
// forever.
func Virtio(n int) (boot.Device, error) {
	if n < 0 || n >= MaxVirtio {
		return boot.Device{}, fmt.Errorf("boot/x86: virtio device %d of at most %d", n, MaxVirtio)
	}
	return boot.Device{
		Base: VirtioBase + guestmem.GPA(n)*VirtioSize,
		Size: VirtioSize,
		IRQ:  virtioLines[n%VirtioLines],
	}, nil
}

// Ranges splits RAM around the hole below 4 GiB.
func Ranges(memBytes uint64) ([]guestmem.Range, error) {
	switch {
	case memBytes < MinMemory:
		return nil, fmt.Errorf("boot/x86: %d bytes of memory are too few; at least %d MiB are needed", memBytes, MinMemory>>20)
	case memBytes > MaxMemory:
		return nil, fmt.Errorf("boot/x86: %d MiB of memory are too many; the most is %d MiB", memBytes>>20, MaxMemory>>20)
	case memBytes%guestmem.PageSize != 0:
		return nil, fmt.Errorf("boot/x86: %d bytes of memory are not whole pages of %d bytes", memBytes, guestmem.PageSize)
	case memBytes <= HoleBase:
		return []guestmem.Range{{Base: 0, Size: memBytes}}, nil
	}
	return []guestmem.Range{{Base: 0, Size: HoleBase}, {Base: HighBase, Size: memBytes - HoleBase}}, nil
}
