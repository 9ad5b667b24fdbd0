package x86

import "github.com/anthropics/boxlite/pkg/guestmem"

const startInfoMagic = 0x336ec578 // "xEn3" with the top bit of the E set

// writeStartInfo writes version 1 of struct hvm_start_info with its module list
// and memory map (xen/include/public/arch-x86/hvm/start_info.h;
// docs/misc/pvh.pandoc for the state of the CPU that goes with it).
func writeStartInfo(mem *guestmem.Memory, d bootData) error {
	info := make([]byte, 56)
	le.PutUint32(info[0:], startInfoMagic)
	le.PutUint32(info[4:], 1) // version: has a memory map
	if d.initrd != 0 {
		mod := make([]byte, 32)
		le.PutUint64(mod[0:], d.initrd)
		le.PutUint64(mod[8:], d.initrdSize)
		if err := mem.Write(mod, modListAddr); err != nil {
			return err
		}
		le.PutUint32(info[12:], 1)
		le.PutUint64(info[16:], modListAddr)
	}
	le.PutUint64(info[24:], cmdlineAddr)
	le.PutUint64(info[32:], acpiAddr)
	le.PutUint64(info[40:], memMapAddr)
	le.PutUint32(info[48:], uint32(len(d.memMap)))
	table := make([]byte, 0, 24*len(d.memMap))
	for _, e := range d.memMap {
		table = le.AppendUint64(table, e.addr)
		table = le.AppendUint64(table, e.size)
		table = le.AppendUint64(table, uint64(e.typ)) // type, then 4 reserved bytes
	}
	if err := mem.Write(table, memMapAddr); err != nil {
		return err
	}
	return mem.Write(info, startInfoAddr)
}
