package x86

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

// ACPI 6.3, as little as a distribution's kernel needs: those have no MP table
// parser any more (Debian's cloud kernel) and no virtio_mmio.device parameter.
// Without either they run on one CPU with no timer. A kernel without ACPI never
// looks at it, and takes the MP table and the command line instead.
//
// The machine is "hardware-reduced" (§4.1): no PM timer, no PIC, no PIT, no
// fixed buttons.
const (
	acpiHeader = 36 // §5.2.6

	fadtSize         = 276 // §5.2.9, revision 6.3
	fadtWBINVD       = 1 << 0
	fadtPowerButton  = 1 << 4 // set: no fixed-feature button
	fadtSleepButton  = 1 << 5
	fadtResetReg     = 1 << 10
	fadtReduced      = 1 << 20
	bootNoVGA        = 1 << 2 // table 5-35
	bootNoMSI        = 1 << 3
	bootNoCMOS       = 1 << 5
	resetPort        = 0x64 // where the keyboard controller of a PC pulses the reset line
	resetValue       = 0xfe
	addressSpaceIO   = 1 // table 5-1
	madtLAPIC        = 0 // table 5-45
	madtIOAPIC       = 1
	madtLAPICNMI     = 4
	madtAllCPUs      = 0xff
	crsEdgeExclusive = 0x03 // §6.4.3.6: consumer, edge, active high
	crsEdgeShared    = 0x0b
)

// acpiTable wraps a body in a header and a checksum.
func acpiTable(signature string, revision byte, body []byte) []byte {
	b := make([]byte, acpiHeader, acpiHeader+len(body))
	copy(b, signature)
	b[8] = revision
	copy(b[10:], "BOXLITMICROVM ") // OEM id of 6 bytes, table id of 8
	le.PutUint32(b[24:], 1)
	copy(b[28:], "BOXL") // who made it, for lack of a compiler
	le.PutUint32(b[32:], 1)
	b = append(b, body...)
	le.PutUint32(b[4:], uint32(len(b)))
	b[9] = -sum(b)
	return b
}

// writeACPI writes the tables one after the other, 16-byte aligned, the root
// pointer first, where kernels look that are not told (§5.2.5.1).
func writeACPI(mem *guestmem.Memory, cpus int, devices []boot.Device) error {
	blob := make([]byte, 48) // room for the root pointer
	place := func(table []byte) uint64 {
		at := acpiAddr + uint64(len(blob))
		blob = append(blob, table...)
		blob = append(blob, make([]byte, -len(blob)&15)...)
		return at
	}
	dsdt := place(acpiTable("DSDT", 2, dsdt(devices)))
	fadt := place(acpiTable("FACP", 6, fadt(dsdt)))
	madt := place(acpiTable("APIC", 5, madt(cpus)))
	xsdt := place(acpiTable("XSDT", 1, le.AppendUint64(le.AppendUint64(nil, fadt), madt)))
	copy(blob, rootPointer(xsdt))
	if len(blob) > acpiRoom {
		return fmt.Errorf("boot/x86: ACPI tables for %d CPUs and %d devices have %d bytes of at most %d", cpus, len(devices), len(blob), acpiRoom)
	}
	return mem.Write(blob, acpiAddr)
}

// rootPointer builds the RSDP (§5.2.5.3).
func rootPointer(xsdt uint64) []byte {
	b := make([]byte, 36)
	copy(b, "RSD PTR ")
	copy(b[9:], "BOXLIT")
	b[15] = 2 // revision
	le.PutUint32(b[20:], uint32(len(b)))
	le.PutUint64(b[24:], xsdt)
	b[8] = -sum(b[:20])
	b[32] = -sum(b)
	return b
}

// fadt builds the body of the FADT (table 5-33).
func fadt(dsdt uint64) []byte {
	b := make([]byte, fadtSize)
	le.PutUint16(b[109:], bootNoVGA|bootNoMSI|bootNoCMOS)
	le.PutUint32(b[112:], fadtWBINVD|fadtPowerButton|fadtSleepButton|fadtResetReg|fadtReduced)
	copy(b[116:], []byte{addressSpaceIO, 8, 0, 1}) // RESET_REG: 8 bits wide, byte access
	le.PutUint64(b[120:], resetPort)
	b[128] = resetValue
	b[131] = 3 // minor version
	le.PutUint64(b[140:], dsdt)
	return b[acpiHeader:]
}

// madt builds the body of the MADT (§5.2.12).
func madt(cpus int) []byte {
	b := le.AppendUint32(nil, LAPICBase)
	b = le.AppendUint32(b, 0)
	for id := range cpus {
		b = append(b, madtLAPIC, 8, byte(id), byte(id), 1, 0, 0, 0) // enabled
	}
	b = append(b, madtIOAPIC, 12, byte(cpus), 0)
	b = le.AppendUint32(b, IOAPICBase)
	b = le.AppendUint32(b, 0) // first GSI
	return append(b, madtLAPICNMI, 6, madtAllCPUs, 0, 0, 1)
}

// dsdt builds the body of the DSDT: AML that declares the serial port and the
// virtio-mmio devices ("LNRO0005", drivers/virtio/virtio_mmio.c).
func dsdt(devices []boot.Device) []byte {
	io := []byte{0x47, 1} // §6.4.2.5: 16-bit decode
	io = le.AppendUint16(io, COM1Port)
	io = le.AppendUint16(io, COM1Port)
	io = append(io, 1, 8)
	scope := amlDevice("COM1", "PNP0501", 0, append(io, crsIRQ(COM1IRQ, crsEdgeExclusive)...))
	for i, d := range devices {
		mem := []byte{0x86, 9, 0, 1} // §6.4.3.4: 32-bit fixed memory range, writable
		mem = le.AppendUint32(mem, uint32(d.Base))
		mem = le.AppendUint32(mem, uint32(d.Size))
		scope = append(scope, amlDevice(fmt.Sprintf("VR%02d", i%100), "LNRO0005", byte(i), append(mem, crsIRQ(d.IRQ, crsEdgeShared)...))...)
	}
	return amlPackage([]byte{0x10}, append([]byte(`\_SB_`), scope...)) // ScopeOp
}

// crsIRQ is an extended interrupt descriptor (§6.4.3.6).
func crsIRQ(irq uint32, flags byte) []byte {
	return le.AppendUint32([]byte{0x89, 6, 0, flags, 1}, irq)
}

// amlDevice declares a device with its resources (§20.2.5.2 DefDevice).
func amlDevice(name, hid string, uid byte, crs []byte) []byte {
	crs = append(crs, 0x79, 0) // §6.4.2.9: end
	b := []byte(name)
	b = append(b, 0x08)
	b = append(b, "_HID\x0d"+hid+"\x00"...) // NameOp, string
	b = append(b, 0x08)
	b = append(b, "_UID\x0a"...) // byte
	b = append(b, uid, 0x08)
	b = append(b, "_CRS"...)
	b = append(b, amlPackage([]byte{0x11}, append([]byte{0x0a, byte(len(crs))}, crs...))...) // BufferOp
	return amlPackage([]byte{0x5b, 0x82}, b)
}

// amlPackage puts an opcode and the length of what follows before it (§20.2.4
// PkgLength, which counts itself).
func amlPackage(op, body []byte) []byte {
	switch n := len(body); {
	case n+1 < 1<<6:
		op = append(op, byte(n+1))
	case n+2 < 1<<12:
		op = append(op, 0x40|byte((n+2)&15), byte((n+2)>>4))
	default:
		op = append(op, 0x80|byte((n+3)&15), byte((n+3)>>4), byte((n+3)>>12))
	}
	return append(op, body...)
}
