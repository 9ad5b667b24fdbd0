package x86

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

var le = binary.LittleEndian

// Entry is how the first CPU starts: in 32-bit protected mode without paging,
// or in 64-bit mode with the page tables at CR3, in both cases with flat
// segments and interrupts off. Registers not named are zero.
type Entry struct {
	Long   bool
	CR3    uint64
	RIP    uint64
	RSP    uint64
	RBX    uint64 // PVH: start_info
	RSI    uint64 // 64-bit protocol: boot_params
	Mode   string // "pvh" or "bzimage64"
	Mapped uint64 // bytes of kernel and initrd mapped from their files
	Copied uint64 // bytes of them copied
}

// image is a kernel that was judged fit, and not yet put into RAM.
type image interface {
	// extent is the RAM that the kernel occupies until it manages memory itself.
	extent() (from, to uint64)
	// cmdlineLimit is the most bytes of command line, without the NUL.
	cmdlineLimit() int
	// initrdEnd is the first address that an initrd must not reach.
	initrdEnd() uint64
	// load places the kernel and writes the tables that lead it to the rest.
	load(mem *guestmem.Memory, rest bootData) (Entry, boot.Placed, error)
}

// bootData is what a kernel must be told.
type bootData struct {
	share      bool
	cmdline    string
	initrd     uint64 // address; 0 without
	initrdSize uint64
	memMap     []e820Entry
}

// Load puts kernel, initrd, command line, memory map, MP table and ACPI tables
// into RAM, which must be fresh (all zero), laid out by [Ranges] and not yet running. On
// an error RAM is of no further use.
func Load(mem *guestmem.Memory, p boot.Params) (Entry, error) {
	low := lowEnd(mem)
	if low < MinMemory {
		return Entry{}, fmt.Errorf("boot/x86: RAM is not laid out by Ranges: %d bytes at address 0", low)
	}
	if p.CPUs < 1 || p.CPUs > MaxCPUs {
		return Entry{}, fmt.Errorf("boot/x86: %d CPUs; 1 to %d are possible", p.CPUs, MaxCPUs)
	}
	for i, d := range p.Devices {
		if mem.Contains(d.Base, 0) || d.IRQ >= ioapicPins {
			return Entry{}, fmt.Errorf("boot/x86: device %d at %v with interrupt %d collides with RAM or has no IOAPIC pin", i, d.Base, d.IRQ)
		}
	}
	kernel, err := open(p.Kernel)
	if err != nil {
		return Entry{}, err
	}
	from, to := kernel.extent()
	if to > low {
		return Entry{}, fmt.Errorf("boot/x86: kernel %s needs RAM from %#x to %#x, and low RAM ends at %#x; give the guest at least %d MiB",
			p.Kernel.Name(), from, to, low, (to+1<<20-1)>>20)
	}
	data := bootData{memMap: memMap(mem), share: p.Share}
	if data.cmdline, err = p.CommandLine(min(kernel.cmdlineLimit(), cmdlineRoom-1)); err != nil {
		return Entry{}, err
	}
	var sum boot.Placed
	if p.Initrd != nil {
		top := min(low, kernel.initrdEnd())
		if data.initrd, data.initrdSize, err = initrdPlace(p.Initrd, to, top); err != nil {
			return Entry{}, err
		}
		placed, err := boot.Place(mem, guestmem.GPA(data.initrd), p.Initrd, 0, data.initrdSize, p.Share)
		if err != nil {
			return Entry{}, err
		}
		sum.Add(placed)
	}
	// RAM is zero, so the string ends by itself.
	if err := mem.Write([]byte(data.cmdline), cmdlineAddr); err != nil {
		return Entry{}, err
	}
	if err := writeMPTable(mem, p.CPUs); err != nil {
		return Entry{}, err
	}
	if err := writeACPI(mem, p.CPUs, p.Devices); err != nil {
		return Entry{}, err
	}
	entry, placed, err := kernel.load(mem, data)
	if err != nil {
		return Entry{}, err
	}
	sum.Add(placed)
	entry.RSP, entry.Mapped, entry.Copied = stackTop, sum.Mapped, sum.Copied
	return entry, nil
}

// open finds out what kind of kernel a file is, and judges its headers.
func open(f *os.File) (image, error) {
	size, err := boot.Regular("kernel", f)
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(size, boot.IdentifySize))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("boot/x86: kernel: %w", err)
	}
	refuse := func(err error) (image, error) {
		return nil, fmt.Errorf("boot/x86: kernel %s: %w", f.Name(), err)
	}
	kind := boot.Identify(head)
	switch kind {
	case boot.BzImage:
		k, err := parseBzImage(head, uint64(size))
		if err != nil {
			return refuse(err)
		}
		k.file = f
		return k, nil
	case boot.ELFX86:
		k, err := parseELF(f, uint64(size))
		if err != nil {
			return refuse(err)
		}
		k.file = f
		return k, nil
	}
	return nil, fmt.Errorf("boot/x86: kernel %s is %s; this host runs x86-64 kernels: give a bzImage (vmlinuz) or a vmlinux built with CONFIG_PVH",
		f.Name(), kind)
}

// initrdAlign is a multiple of every host's page size, so that the same file
// lands at the same address everywhere and can be mapped.
const initrdAlign = 64 << 10

// initrdPlace puts the initrd as high as possible, above the kernel.
func initrdPlace(f *os.File, kernelEnd, top uint64) (at, size uint64, err error) {
	n, err := boot.Regular("initrd", f)
	if err != nil {
		return 0, 0, err
	}
	size = uint64(n)
	if size < top {
		at = (top - size) &^ (initrdAlign - 1)
	}
	if at < kernelEnd || at < highMemory {
		return 0, 0, fmt.Errorf("boot/x86: initrd %s of %d bytes does not fit between the kernel's end at %#x and %#x; give the guest more memory",
			f.Name(), size, kernelEnd, top)
	}
	return at, size, nil
}

// lowEnd is where the RAM that begins at address 0 ends.
func lowEnd(mem *guestmem.Memory) uint64 {
	if r := mem.Regions(); len(r) > 0 && r[0].Base == 0 {
		return uint64(len(r[0].Bytes))
	}
	return 0
}
