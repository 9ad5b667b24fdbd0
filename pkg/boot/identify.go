package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Kind says in words what a file is. Loaders know the kinds below; the rest is
// for messages.
type Kind string

const (
	BzImage    Kind = "an x86 bzImage"
	ELFX86     Kind = "an ELF file for x86-64"
	ARM64Image Kind = "an arm64 Image"
)

// IdentifySize is how much of a file Identify wants to see.
const IdentifySize = 1024

// ELF machine numbers (System V ABI, e_machine) that a user may well hold in hand.
var elfMachines = map[uint16]string{3: "i386", 40: "arm", 62: "x86-64", 183: "arm64", 243: "riscv"}

var magics = []struct {
	off   int
	magic string
	kind  Kind
}{
	{0x38, "ARM\x64", ARM64Image},                         // Documentation/arch/arm64/booting.rst
	{0x30, "RISCV\x00\x00\x00", "a riscv Image"},          // Documentation/arch/riscv/boot-image-header.rst
	{4, "zimg", "an EFI zboot kernel"},                    // drivers/firmware/efi/libstub/zboot-header.S
	{0, "\x1f\x8b", "gzip data; gunzip it first"},         // RFC 1952
	{0, "\x28\xb5\x2f\xfd", "zstd data; unzstd it first"}, // RFC 8878
	{0, "\xfd7zXZ\x00", "xz data; unxz it first"},
	{0, "BZh", "bzip2 data; bunzip2 it first"},
	{0, "\x02\x21\x4c\x18", "lz4 data; unlz4 it first"},
	{0, "\x04\x22\x4d\x18", "lz4 data; unlz4 it first"},
	{0, "PK\x03\x04", "a zip archive"},
	{0, "!<arch>\n", "an ar archive (a Debian package?); unpack it first"},
	{257, "ustar", "a tar archive; unpack it first"},
	{0, "070701", "a cpio archive; an initramfs is given beside a kernel, not as one"},
	{0, "070702", "a cpio archive; an initramfs is given beside a kernel, not as one"},
	{0, "QFI\xfb", "a qcow2 disk"},
	{0, "hsqs", "a squashfs file system"},
	{0, "#!", "a script"},
}

// Identify looks at the first IdentifySize bytes of a file, or all it has.
func Identify(head []byte) Kind {
	if len(head) == 0 {
		return "empty"
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return identifyELF(head)
	}
	for _, m := range magics {
		if len(head) >= m.off && bytes.HasPrefix(head[m.off:], []byte(m.magic)) {
			return m.kind
		}
	}
	boots := len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa
	switch {
	case boots && len(head) > 0x206 && string(head[0x202:0x206]) == "HdrS":
		return BzImage
	case bytes.HasPrefix(head, []byte("MZ")):
		return "an EFI or Windows program"
	case boots:
		return "a disk image or a boot sector"
	case isText(head):
		return "a text file"
	}
	return Kind(fmt.Sprintf("unknown data that begins with % x", head[:min(8, len(head))]))
}

func identifyELF(head []byte) Kind {
	if len(head) < 20 {
		return "an ELF file cut short"
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[5] == 2 {
		order = binary.BigEndian
	}
	machine := order.Uint16(head[18:])
	name, ok := elfMachines[machine]
	if !ok {
		name = fmt.Sprintf("machine-%d", machine)
	}
	return Kind("an ELF file for " + name)
}

func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f' && c != 0x1b || c == 0x7f {
			return false
		}
	}
	return true
}
