package x86

import (
	"fmt"
	"io"
	"os"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

// The parts of ELF-64 (System V ABI, chapters 4 and 5) that a boot loader
// needs. debug/elf is not used: it reads section tables, whose size the file chooses.
const (
	ehSize = 64
	phSize = 56

	etExec = 2
	etDyn  = 3

	ptLoad = 1
	ptNote = 4

	maxSegments = 64       // Linux has 5
	maxNotes    = 64 << 10 // Linux has about 500 bytes

	// noteEntry is XEN_ELFNOTE_PHYS32_ENTRY: the physical address where a guest
	// starts in 32-bit mode (xen/include/public/elfnote.h).
	noteEntry = 18
)

type segment struct {
	off, paddr, filesz, memsz uint64
}

// vmlinux is an uncompressed kernel with a PVH entry.
type vmlinux struct {
	file     *os.File
	entry    uint64
	segments []segment
}

func parseELF(f io.ReaderAt, size uint64) (*vmlinux, error) {
	var h [ehSize]byte
	if size < ehSize {
		return nil, fmt.Errorf("ELF header cut short: the file has %d bytes", size)
	}
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return nil, err
	}
	if h[4] != 2 || h[5] != 1 {
		return nil, fmt.Errorf("ELF class %d, byte order %d; a 64-bit little-endian vmlinux is needed", h[4], h[5])
	}
	if t := le.Uint16(h[16:]); t != etExec && t != etDyn {
		return nil, fmt.Errorf("ELF type %d is no executable; give the linked vmlinux, not an object file or a core", t)
	}
	phoff, phentsize, phnum := le.Uint64(h[32:]), le.Uint16(h[54:]), uint64(le.Uint16(h[56:]))
	switch {
	case phentsize != phSize:
		return nil, fmt.Errorf("ELF program headers of %d bytes each instead of %d", phentsize, phSize)
	case phnum == 0:
		return nil, fmt.Errorf("ELF without program headers; give the linked vmlinux")
	case phnum > maxSegments:
		return nil, fmt.Errorf("ELF with %d program headers; at most %d are accepted", phnum, maxSegments)
	case phoff > size || phnum*phSize > size-phoff:
		return nil, fmt.Errorf("ELF program headers at %#x end beyond the file of %d bytes; is it truncated?", phoff, size)
	}
	table := make([]byte, phnum*phSize)
	if _, err := f.ReadAt(table, int64(phoff)); err != nil {
		return nil, err
	}
	k := new(vmlinux)
	for i := range int(phnum) {
		p := table[i*phSize:]
		s := segment{off: le.Uint64(p[8:]), paddr: le.Uint64(p[24:]), filesz: le.Uint64(p[32:]), memsz: le.Uint64(p[40:])}
		typ, align := le.Uint32(p), le.Uint64(p[48:])
		if typ != ptLoad && typ != ptNote {
			continue
		}
		if s.off > size || s.filesz > size-s.off {
			return nil, fmt.Errorf("ELF segment %d: %d bytes at offset %#x end beyond the file of %d bytes; is it truncated?", i, s.filesz, s.off, size)
		}
		var err error
		if typ == ptLoad {
			err = k.addSegment(s)
		} else if k.entry == 0 {
			k.entry, err = readNotes(f, s, align)
		}
		if err != nil {
			return nil, fmt.Errorf("ELF segment %d: %w", i, err)
		}
	}
	return k, k.check()
}

func (k *vmlinux) addSegment(s segment) error {
	end := s.paddr + s.memsz
	switch {
	case s.memsz == 0 && s.filesz == 0:
		return nil
	case s.filesz > s.memsz:
		return fmt.Errorf("%d bytes in the file for %d bytes of memory", s.filesz, s.memsz)
	case end < s.paddr:
		return fmt.Errorf("%d bytes at %#x wrap around the address space", s.memsz, s.paddr)
	case s.paddr < highMemory:
		return fmt.Errorf("physical address %#x is below 1 MiB, where the boot tables are", s.paddr)
	case end > HoleBase:
		return fmt.Errorf("%d bytes at physical address %#x reach beyond low RAM, which ends at %#x at the latest", s.memsz, s.paddr, uint64(HoleBase))
	}
	for _, o := range k.segments {
		if s.paddr < o.paddr+o.memsz && o.paddr < end {
			return fmt.Errorf("%#x to %#x overlaps another segment, %#x to %#x", s.paddr, end, o.paddr, o.paddr+o.memsz)
		}
	}
	k.segments = append(k.segments, s)
	return nil
}

func (k *vmlinux) check() error {
	if len(k.segments) == 0 {
		return fmt.Errorf("ELF has nothing to load")
	}
	if k.entry == 0 {
		return fmt.Errorf("vmlinux has no PVH entry (ELF note Xen %d); build it with CONFIG_PVH=y, or give its bzImage (vmlinuz)", noteEntry)
	}
	for _, s := range k.segments {
		if k.entry >= s.paddr && k.entry-s.paddr < s.filesz {
			return nil
		}
	}
	return fmt.Errorf("PVH entry %#x is in no segment of the file", k.entry)
}

// readNotes returns the PVH entry that a note segment names, or 0.
func readNotes(f io.ReaderAt, s segment, align uint64) (uint64, error) {
	if s.filesz > maxNotes {
		return 0, fmt.Errorf("%d bytes of notes; at most %d are accepted", s.filesz, maxNotes)
	}
	b := make([]byte, s.filesz)
	if _, err := f.ReadAt(b, int64(s.off)); err != nil {
		return 0, err
	}
	return findEntry(b, align)
}

// findEntry walks notes (System V ABI, chapter 5 "Note Section"): name and
// description are padded to 4 bytes, or to 8 where the segment says so.
func findEntry(b []byte, align uint64) (uint64, error) {
	if align != 8 {
		align = 4
	}
	// All sizes are below 2^33, so that sums in 64 bits cannot wrap.
	pad := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	for len(b) >= 12 {
		namesz, descsz, typ := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		desc := pad(12 + namesz)
		end := desc + descsz
		if end > uint64(len(b)) {
			return 0, fmt.Errorf("a note of %d bytes ends beyond the %d bytes left of its segment", end, len(b))
		}
		if typ == noteEntry && namesz == 4 && string(b[12:16]) == "Xen\x00" {
			switch descsz {
			case 4:
				return uint64(le.Uint32(b[desc:])), nil
			case 8:
				entry := le.Uint64(b[desc:])
				if entry>>32 != 0 {
					return 0, fmt.Errorf("PVH entry %#x is not a 32-bit address", entry)
				}
				return entry, nil
			}
			return 0, fmt.Errorf("PVH entry note holds %d bytes instead of 4 or 8", descsz)
		}
		b = b[min(pad(end), uint64(len(b))):]
	}
	return 0, nil
}

func (k *vmlinux) extent() (from, to uint64) {
	from = HoleBase
	for _, s := range k.segments {
		from, to = min(from, s.paddr), max(to, s.paddr+s.memsz)
	}
	return from, to
}

// cmdlineLimit is COMMAND_LINE_SIZE without the NUL (arch/x86/include/asm/setup.h):
// an ELF file does not tell.
func (k *vmlinux) cmdlineLimit() int { return 2048 - 1 }

// initrdEnd is the end of what the 32-bit field of boot_params reaches.
func (k *vmlinux) initrdEnd() uint64 { return HoleBase }

func (k *vmlinux) load(mem *guestmem.Memory, rest bootData) (Entry, boot.Placed, error) {
	var sum boot.Placed
	for _, s := range k.segments {
		// What memsz has beyond filesz is zero already: RAM is fresh.
		placed, err := boot.Place(mem, guestmem.GPA(s.paddr), k.file, int64(s.off), s.filesz, rest.share)
		if err != nil {
			return Entry{}, sum, err
		}
		sum.Add(placed)
	}
	if err := writeStartInfo(mem, rest); err != nil {
		return Entry{}, sum, err
	}
	return Entry{Mode: "pvh", RIP: k.entry, RBX: startInfoAddr}, sum, nil
}
