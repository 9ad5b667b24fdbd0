package x86

import (
	"fmt"
	"os"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

// Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": offsets in
// the file, which are the same in boot_params.
const (
	hdrSetupSects      = 0x1f1 // u8: 512-byte sectors of real-mode code, 0 means 4
	hdrSyssize         = 0x1f4 // u32: protected-mode code in 16-byte units
	hdrVidMode         = 0x1fa // u16
	hdrJump            = 0x201 // u8: the header ends this far behind 0x202
	hdrVersion         = 0x206 // u16: BCD-like, 0x20c is 2.12
	hdrTypeOfLoader    = 0x210 // u8
	hdrLoadflags       = 0x211 // u8
	hdrRamdiskImage    = 0x218 // u32
	hdrRamdiskSize     = 0x21c // u32
	hdrCmdLinePtr      = 0x228 // u32
	hdrInitrdAddrMax   = 0x22c // u32: highest address an initrd may use
	hdrXloadflags      = 0x236 // u16
	hdrCmdlineSize     = 0x238 // u32: without the NUL
	hdrPrefAddress     = 0x258 // u64
	hdrInitSize        = 0x260 // u32: memory the kernel needs from its address on
	hdrEnd             = 0x264 // of what is read here
	hdrLimit           = 0x290 // where boot_params has other fields
	zeroPageRSDP       = 0x070 // u64, read from protocol 2.14 on
	zeroPageE820Count  = 0x1e8 // u8
	zeroPageE820       = 0x2d0 // 20 bytes each, at most 128
	loadflagLoadedHigh = 1 << 0
	xloadflagKernel64  = 1 << 0
	loaderUndefined    = 0xff   // no id assigned
	vidModeNormal      = 0xffff // "normal"
	minVersion         = 0x20c  // 2.12 brought xloadflags
	entry64            = 0x200  // "64-bit Boot Protocol": load address + 0x200
	sector             = 512
)

// bzImage is a kernel that decompresses itself.
type bzImage struct {
	file       *os.File
	header     []byte // of the setup header, to hdrLimit at most, from file offset 0
	off, size  uint64 // protected-mode code in the file
	base       uint64
	initSize   uint64
	cmdlineMax int
	initrdMax  uint64
}

// parseBzImage judges the header in the first bytes of a file of the given size.
func parseBzImage(head []byte, size uint64) (*bzImage, error) {
	if len(head) < hdrLimit {
		return nil, fmt.Errorf("bzImage header cut short: the file has %d bytes", size)
	}
	if v := le.Uint16(head[hdrVersion:]); v < minVersion {
		return nil, fmt.Errorf("bzImage with boot protocol %d.%02d; 2.12 (Linux 3.8) or later is needed", v>>8, v&0xff)
	}
	if le.Uint16(head[hdrXloadflags:])&xloadflagKernel64 == 0 {
		return nil, fmt.Errorf("bzImage has no 64-bit entry (XLF_KERNEL_64); this host runs x86-64 kernels")
	}
	end := 0x202 + int(head[hdrJump])
	if end < hdrEnd || end > hdrLimit {
		return nil, fmt.Errorf("bzImage header ends at %#x; between %#x and %#x is possible", end, hdrEnd, hdrLimit)
	}
	if head[hdrLoadflags]&loadflagLoadedHigh == 0 {
		return nil, fmt.Errorf("zImage, which loads below 1 MiB; a bzImage is needed")
	}
	sects := uint64(head[hdrSetupSects])
	if sects == 0 {
		sects = 4
	}
	k := &bzImage{
		header:     head[:end],
		off:        (sects + 1) * sector,
		size:       uint64(le.Uint32(head[hdrSyssize:])) * 16,
		base:       le.Uint64(head[hdrPrefAddress:]),
		initSize:   uint64(le.Uint32(head[hdrInitSize:])),
		cmdlineMax: int(min(le.Uint32(head[hdrCmdlineSize:]), cmdlineRoom-1)),
		initrdMax:  uint64(le.Uint32(head[hdrInitrdAddrMax:])),
	}
	switch {
	case k.off > size || k.size > size-k.off:
		return nil, fmt.Errorf("bzImage says %d bytes at offset %#x, and the file has %d bytes; is it truncated?", k.size, k.off, size)
	case k.size <= entry64:
		return nil, fmt.Errorf("bzImage with %d bytes of code, which ends before its entry", k.size)
	case k.initSize < k.size:
		return nil, fmt.Errorf("bzImage wants %d bytes of memory (init_size) for %d bytes of code", k.initSize, k.size)
	case k.base < highMemory || k.base >= HoleBase || k.base+k.initSize > HoleBase:
		return nil, fmt.Errorf("bzImage wants %d bytes at %#x (pref_address), which is not between %#x and %#x", k.initSize, k.base, highMemory, uint64(HoleBase))
	}
	return k, nil
}

func (k *bzImage) extent() (from, to uint64) { return k.base, k.base + k.initSize }
func (k *bzImage) cmdlineLimit() int         { return k.cmdlineMax }
func (k *bzImage) initrdEnd() uint64         { return k.initrdMax + 1 }

// load follows "64-bit Boot Protocol". The kernel goes to its pref_address even
// though it is relocatable: an x86-64 kernel loaded lower moves itself up there.
// The protocol's GDT is left out: the CPU starts with flat segments and Linux
// loads a table of its own before it loads a selector.
func (k *bzImage) load(mem *guestmem.Memory, rest bootData) (Entry, boot.Placed, error) {
	placed, err := boot.Place(mem, guestmem.GPA(k.base), k.file, int64(k.off), k.size, rest.share)
	if err != nil {
		return Entry{}, placed, err
	}
	if err := mem.Write(k.zeroPage(rest), zeroPageAddr); err != nil {
		return Entry{}, placed, err
	}
	if err := mem.Write(identityTables(), pageTableAddr); err != nil {
		return Entry{}, placed, err
	}
	return Entry{
		Mode: "bzimage64",
		Long: true,
		CR3:  pageTableAddr,
		RIP:  k.base + entry64,
		RSI:  zeroPageAddr,
	}, placed, nil
}

// zeroPage builds struct boot_params (Documentation/arch/x86/zero-page.rst).
func (k *bzImage) zeroPage(d bootData) []byte {
	z := make([]byte, guestmem.PageSize)
	copy(z[hdrSetupSects:], k.header[hdrSetupSects:])
	le.PutUint16(z[hdrVidMode:], vidModeNormal)
	z[hdrTypeOfLoader] = loaderUndefined
	le.PutUint32(z[hdrCmdLinePtr:], cmdlineAddr)
	le.PutUint32(z[hdrRamdiskImage:], uint32(d.initrd))
	le.PutUint32(z[hdrRamdiskSize:], uint32(d.initrdSize))
	le.PutUint64(z[zeroPageRSDP:], acpiAddr)
	z[zeroPageE820Count] = byte(len(d.memMap))
	for i, e := range d.memMap {
		p := z[zeroPageE820+20*i:]
		le.PutUint64(p, e.addr)
		le.PutUint64(p[8:], e.size)
		le.PutUint32(p[16:], e.typ)
	}
	return z
}

// identityTables maps the first 4 GiB one to one by 2 MiB pages, in which
// everything lies that the kernel touches before it has tables of its own
// (Intel SDM volume 3, 4.5 "4-Level Paging").
func identityTables() []byte {
	const (
		present  = 1 << 0
		writable = 1 << 1
		large    = 1 << 7
		gigs     = 4
		page     = guestmem.PageSize
	)
	t := make([]byte, (2+gigs)*page)
	le.PutUint64(t, (pageTableAddr+page)|present|writable)
	for g := range uint64(gigs) {
		le.PutUint64(t[page+8*g:], (pageTableAddr+(2+g)*page)|present|writable)
		for i := range uint64(512) {
			le.PutUint64(t[(2+g)*page+8*i:], g<<30|i<<21|present|writable|large)
		}
	}
	return t
}
