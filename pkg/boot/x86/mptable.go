package x86

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// MultiProcessor Specification 1.4: how a kernel without ACPI learns of its
// CPUs and of the wires to the IOAPIC.
const (
	mpSpecRevision = 4 // 1.4

	mpProcessor = 0 // §4.3.1, 20 bytes; the other entries have 8
	mpBus       = 1 // §4.3.2
	mpIOAPIC    = 2 // §4.3.3
	mpIOInt     = 3 // §4.3.4
	mpLocalInt  = 4 // §4.3.5

	mpIntINT    = 0 // interrupt types, table 4-10
	mpIntNMI    = 1
	mpIntExtINT = 3

	mpCPUEnabled = 1 << 0
	mpCPUBoot    = 1 << 1

	mpActiveHighEdge = 1 | 1<<2 // table 4-10, PO and EL: what ISA lines are anyway

	lapicVersion  = 0x14 // integrated APIC
	ioapicVersion = 0x11
	isaBus        = 0
	allAPICs      = 0xff
)

// mpTable builds the configuration table (§4.2, §4.3).
//
// Every IOAPIC pin is wired to the ISA interrupt of the same number. The bus
// ends at 15 in the specification, but Linux maps an ISA source of 16 or more
// that is no legacy interrupt to the GSI of its pin, edge-triggered and active
// high (arch/x86/kernel/apic/io_apic.c, mp_map_pin_to_irq and
// alloc_irq_from_domain), and so gives devices eight lines more. Pin 2 has no
// entry: Linux refuses interrupt 2. The timer is on pin 0, where KVM's default
// routing puts it, for guests that have a PIT.
func mpTable(cpus int) []byte {
	ioapicID := byte(cpus) // the first id that is no CPU's
	b := make([]byte, 44, 44+20*cpus+8*(2+ioapicPins+2))
	entries := 0
	add := func(e ...byte) {
		b = append(b, e...)
		entries++
	}
	for id := range cpus {
		flags := byte(mpCPUEnabled)
		if id == 0 {
			flags |= mpCPUBoot
		}
		e := [20]byte{mpProcessor, byte(id), lapicVersion, flags}
		le.PutUint32(e[4:], 0x600)     // signature: family 6; nobody reads it
		le.PutUint32(e[8:], 1<<9|1<<0) // features: APIC, FPU
		add(e[:]...)
	}
	add(mpBus, isaBus, 'I', 'S', 'A', ' ', ' ', ' ')
	add(append([]byte{mpIOAPIC, ioapicID, ioapicVersion, 1}, le.AppendUint32(nil, IOAPICBase)...)...)
	for irq := range byte(ioapicPins) {
		if irq != 2 {
			add(mpIOInt, mpIntINT, mpActiveHighEdge, 0, isaBus, irq, ioapicID, irq)
		}
	}
	add(mpLocalInt, mpIntExtINT, 0, 0, isaBus, 0, allAPICs, 0)
	add(mpLocalInt, mpIntNMI, 0, 0, isaBus, 0, allAPICs, 1)

	copy(b, "PCMP")
	le.PutUint16(b[4:], uint16(len(b)))
	b[6] = mpSpecRevision
	copy(b[8:], "BOXLITE MICROVM     ") // OEM id of 8 bytes, product id of 12
	le.PutUint16(b[34:], uint16(entries))
	le.PutUint32(b[36:], LAPICBase)
	b[7] = -sum(b)
	return b
}

// mpPointer builds the floating pointer structure (§4.1): the table follows, and
// the PIC reaches the boot CPU by virtual wire (§3.6.2.2), not by IMCR.
func mpPointer() []byte {
	b := make([]byte, 16)
	copy(b, "_MP_")
	le.PutUint32(b[4:], mpTableAddr)
	b[8] = 1 // length in paragraphs
	b[9] = mpSpecRevision
	b[10] = -sum(b)
	return b
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

func writeMPTable(mem *guestmem.Memory, cpus int) error {
	table := mpTable(cpus)
	if len(table) > mpTableRoom {
		return fmt.Errorf("boot/x86: MP table for %d CPUs has %d bytes of at most %d", cpus, len(table), mpTableRoom)
	}
	if err := mem.Write(table, mpTableAddr); err != nil {
		return err
	}
	return mem.Write(mpPointer(), mpPointerAddr)
}
