package machine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

const (
	pvhLoad = 0x100_0000 // 16 MiB, where kernels like to be
	pvhText = 0x1000     // offset of the code in the file
)

// pvhELF wraps code into an ELF executable with the PVH note, entered in 32-bit
// mode at its first byte.
func pvhELF(code []byte) []byte {
	const headers = 64 + 2*56
	var note bytes.Buffer
	for _, w := range []uint32{4, 4, 18} { // name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY
		binary.Write(&note, binary.LittleEndian, w)
	}
	note.WriteString("Xen\x00")
	binary.Write(&note, binary.LittleEndian, uint32(pvhLoad))

	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Entry: pvhLoad, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Off: pvhText, Vaddr: pvhLoad, Paddr: pvhLoad,
		Filesz: uint64(len(code)), Memsz: uint64(len(code)) + 0x1000, Align: 0x1000,
	})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_NOTE), Off: headers, Filesz: uint64(note.Len()), Memsz: uint64(note.Len()), Align: 4,
	})
	b.Write(note.Bytes())
	b.Write(make([]byte, pvhText-b.Len()))
	b.Write(code)
	return b.Bytes()
}
