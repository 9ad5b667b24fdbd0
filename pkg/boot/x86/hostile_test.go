package x86

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/boot"
)

// Case 23: kernels that are broken, hostile or none. Each is refused before
// anything runs, in one line that says what is wrong.
func TestHostile23Kernels(t *testing.T) {
	text := phdr{typ: ptLoad, off: 0x1000, paddr: 1 << 24, data: pattern(8192, 1)}
	entry := phdr{typ: ptNote, off: 0x4000, data: entryNote(1 << 24)}
	with := func(p phdr, change func(*phdr)) phdr {
		change(&p)
		return p
	}
	poke := func(b []byte, off int, v ...byte) []byte {
		copy(b[off:], v)
		return b
	}
	u32 := func(v uint32) []byte { return le.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return le.AppendUint64(nil, v) }
	padded := func(head string, n int) []byte { return append([]byte(head), make([]byte, n)...) }

	for _, c := range []struct {
		name  string
		image []byte
		err   string
	}{
		// not a kernel
		{"empty", nil, "is empty (0 bytes)"},
		{"one byte", []byte{0x7f}, "unknown data that begins with 7f"},
		{"script", []byte("#!/bin/sh\nexec true\n"), "is a script; this host runs x86-64 kernels: give a bzImage"},
		{"text", []byte("not a kernel\n"), "is a text file"},
		{"gzip", padded("\x1f\x8b\x08", 100), "is gzip data; gunzip it first"},
		{"zstd", padded("\x28\xb5\x2f\xfd", 100), "is zstd data; unzstd it first"},
		{"xz", padded("\xfd7zXZ\x00", 100), "is xz data"},
		{"cpio", padded("070701", 200), "is a cpio archive; an initramfs is given beside a kernel"},
		{"deb", padded("!<arch>\n", 200), "ar archive"},
		{"arm64 Image", poke(padded("MZ", 4096), 0x38, []byte("ARM\x64")...), "is an arm64 Image; this host runs x86-64 kernels"},
		{"arm64 vmlinux", poke(goodELF(), 18, 183, 0), "is an ELF file for arm64; this host runs x86-64 kernels"},
		{"i386 vmlinux", poke(goodELF(), 18, 3, 0), "is an ELF file for i386"},
		{"odd vmlinux", poke(goodELF(), 18, 0xff, 0x7f), "is an ELF file for machine-32767"},
		{"EFI program", padded("MZ", 4096), "is an EFI or Windows program"},
		{"boot sector", poke(make([]byte, 512), 510, 0x55, 0xaa), "is a disk image or a boot sector"},
		{"zeros", make([]byte, 1<<20), "unknown data that begins with 00 00"},

		// ELF: header
		{"ELF magic only", []byte("\x7fELF"), "an ELF file cut short"},
		{"ELF half a header", goodELF()[:40], "ELF header cut short: the file has 40 bytes"},
		{"ELF 32-bit", poke(goodELF(), 4, 1), "ELF class 1"},
		{"ELF object", poke(goodELF(), 16, 1, 0), "ELF type 1 is no executable"},
		{"ELF core", poke(goodELF(), 16, 4, 0), "not an object file or a core"},
		{"ELF phentsize", poke(goodELF(), 54, 32, 0), "program headers of 32 bytes each instead of 56"},
		{"ELF no headers", poke(goodELF(), 56, 0, 0), "ELF without program headers"},
		{"ELF PN_XNUM: 2^32 headers", poke(goodELF(), 56, 0xff, 0xff), "ELF with 65535 program headers; at most 64"},
		{"ELF phoff beyond", poke(goodELF(), 32, u64(1<<40)...), "end beyond the file"},
		{"ELF phoff wraps", poke(goodELF(), 32, u64(math.MaxUint64-8)...), "end beyond the file"},
		{"ELF phoff negative", poke(goodELF(), 32, u64(1<<63)...), "end beyond the file"},
		{"ELF headers only", goodELF()[:ehSize+3*phSize], "end beyond the file"},

		// ELF: segments
		{"truncated", goodELF()[:0x20000], "is it truncated?"},
		{"offset+filesz wraps", elf(with(text, func(p *phdr) { p.fakeOff = math.MaxUint64 - 100 }), entry), "end beyond the file"},
		{"filesz huge", elf(with(text, func(p *phdr) { p.fakeFilesz = math.MaxUint64 }), entry), "end beyond the file"},
		{"filesz over memsz", elf(with(text, func(p *phdr) { p.memsz, p.keepFakeMem = 100, true }), entry), "8192 bytes in the file for 100 bytes of memory"},
		{"paddr+memsz wraps", elf(with(text, func(p *phdr) { p.paddr = math.MaxUint64 - 100 }), entry), "wrap around"},
		{"memsz wraps", elf(with(text, func(p *phdr) { p.memsz = math.MaxUint64 }), entry), "wrap around"},
		{"address 0", elf(with(text, func(p *phdr) { p.paddr = 0 }), entry), "below 1 MiB, where the boot tables are"},
		{"over the tables", elf(with(text, func(p *phdr) { p.paddr = startInfoAddr }), entry), "below 1 MiB"},
		{"beyond RAM", elf(with(text, func(p *phdr) { p.paddr = 64<<20 - 4096 }), with(entry, func(p *phdr) { p.data = entryNote(64<<20 - 4096) })), "low RAM ends at 0x4000000; give the guest at least 65 MiB"},
		{"bss beyond RAM", elf(with(text, func(p *phdr) { p.memsz = 100 << 20 }), entry), "give the guest at least 116 MiB"},
		{"in the hole", elf(with(text, func(p *phdr) { p.paddr = VirtioBase }), entry), "reach beyond low RAM"},
		{"above the hole", elf(with(text, func(p *phdr) { p.paddr = HighBase }), entry), "reach beyond low RAM"},
		{"overlap", elf(text, with(text, func(p *phdr) { p.paddr += 8191 }), entry), "overlaps another segment"},
		{"the same twice", elf(text, text, entry), "overlaps another segment"},
		{"one inside the bss of another", elf(with(text, func(p *phdr) { p.memsz = 1 << 20 }), with(text, func(p *phdr) { p.paddr += 0x10000 }), entry), "overlaps another segment"},
		{"nothing to load", elf(entry), "ELF has nothing to load"},
		{"0 bytes to load", elf(phdr{typ: ptLoad, off: 0x1000, paddr: 1 << 24}, entry), "ELF has nothing to load"},

		// ELF: notes
		{"no note", elf(text), "has no PVH entry"},
		{"another's note", elf(text, with(entry, func(p *phdr) { p.data = note("GNU", noteEntry, u64(1<<24)) })), "build it with CONFIG_PVH=y, or give its bzImage"},
		{"entry outside", elf(text, with(entry, func(p *phdr) { p.data = entryNote(1 << 25) })), "PVH entry 0x2000000 is in no segment"},
		{"entry in bss", elf(with(text, func(p *phdr) { p.memsz = 1 << 20 }), with(entry, func(p *phdr) { p.data = entryNote(1<<24 + 8192) })), "is in no segment of the file"},
		{"entry above 4 GiB", elf(text, with(entry, func(p *phdr) { p.data = entryNote(1 << 32) })), "is not a 32-bit address"},
		{"entry of 1 byte", elf(text, with(entry, func(p *phdr) { p.data = note("Xen", noteEntry, []byte{1}) })), "holds 1 bytes instead of 4 or 8"},
		{"empty notes for ever", elf(text, with(entry, func(p *phdr) { p.data = make([]byte, maxNotes) })), "has no PVH entry"},
		{"namesz 2^32-1", elf(text, with(entry, func(p *phdr) { p.data = append(u32(math.MaxUint32), make([]byte, 60)...) })), "ends beyond"},
		{"descsz 2^32-1", elf(text, with(entry, func(p *phdr) { p.data = poke(entryNote(1<<24), 4, u32(math.MaxUint32)...) })), "ends beyond"},
		{"both", elf(text, with(entry, func(p *phdr) { p.data = bytes.Repeat([]byte{0xff}, 64) })), "ends beyond"},
		{"notes of 2 GiB", elf(text, with(entry, func(p *phdr) { p.fakeFilesz = 1 << 31 })), "end beyond the file"},
		{"too many notes", elf(text, with(entry, func(p *phdr) { p.data = make([]byte, maxNotes+1) })), "at most 65536 are accepted"},

		// bzImage
		{"bzImage cut in the header", goodBzImage()[:0x240], "bzImage header cut short"},
		{"bzImage cut in the code", goodBzImage()[:100_000], "is it truncated?"},
		{"bzImage cut after setup", goodBzImage()[:40*sector], "is it truncated?"},
		{"bzImage old", poke(goodBzImage(), hdrVersion, 0x0b, 0x02), "boot protocol 2.11; 2.12 (Linux 3.8) or later"},
		{"bzImage 32-bit", poke(goodBzImage(), hdrXloadflags, 0, 0), "no 64-bit entry"},
		{"zImage", poke(goodBzImage(), hdrLoadflags, 0), "a bzImage is needed"},
		{"bzImage header too short", poke(goodBzImage(), hdrJump, 0x10), "header ends at 0x212"},
		{"bzImage header over E820", poke(goodBzImage(), hdrJump, 0xff), "header ends at 0x301"},
		{"bzImage syssize 2^32-1", poke(goodBzImage(), hdrSyssize, u32(math.MaxUint32)...), "is it truncated?"},
		{"bzImage of 0 bytes", poke(goodBzImage(), hdrSyssize, u32(0)...), "0 bytes of code, which ends before its entry"},
		{"bzImage init_size 0", poke(goodBzImage(), hdrInitSize, u32(0)...), "wants 0 bytes of memory (init_size)"},
		{"bzImage init_size 2^32-1", poke(goodBzImage(), hdrInitSize, u32(math.MaxUint32)...), "(pref_address), which is not between"},
		{"bzImage init_size over RAM", poke(goodBzImage(), hdrInitSize, u32(60<<20)...), "give the guest at least 76 MiB"},
		{"bzImage at 0", poke(goodBzImage(), hdrPrefAddress, u64(0)...), "which is not between 0x100000 and 0xc0000000"},
		{"bzImage in the hole", poke(goodBzImage(), hdrPrefAddress, u64(LAPICBase)...), "which is not between"},
		{"bzImage address wraps", poke(goodBzImage(), hdrPrefAddress, u64(math.MaxUint64-4095)...), "which is not between"},
		{"bzImage above RAM", poke(goodBzImage(), hdrPrefAddress, u64(1<<30)...), "give the guest at least 1032 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(newRAM(t, 64<<20), boot.Params{Kernel: tempFile(t, "kernel", c.image), CPUs: 1})
			require.ErrorContains(t, err, c.err)
			require.ErrorContains(t, err, "kernel ", "names the file")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// A kernel that is no file at all.
func TestHostile23NotAFile(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	_, err = Load(newRAM(t, MinMemory), boot.Params{Kernel: dir, CPUs: 1})
	require.ErrorContains(t, err, "is a directory")
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	_, err = Load(newRAM(t, MinMemory), boot.Params{Kernel: null, CPUs: 1})
	require.ErrorContains(t, err, "is not a regular file")
	closed := tempFile(t, "closed", []byte("x"))
	require.NoError(t, closed.Close())
	_, err = Load(newRAM(t, MinMemory), boot.Params{Kernel: closed, CPUs: 1})
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestHostile23Initrd(t *testing.T) {
	sparse := func(size int64) *os.File {
		path := filepath.Join(t.TempDir(), "initrd")
		f, err := os.Create(path)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		require.NoError(t, f.Truncate(size))
		return f
	}
	for _, kernel := range [][]byte{goodELF(), goodBzImage()} {
		load := func(initrd *os.File) error {
			_, err := Load(newRAM(t, 64<<20), boot.Params{Kernel: tempFile(t, "kernel", kernel), Initrd: initrd, CPUs: 1})
			return err
		}
		require.ErrorContains(t, load(sparse(0)), "is empty (0 bytes)")
		require.ErrorContains(t, load(sparse(65<<20)), "of 68157440 bytes does not fit")
		require.ErrorContains(t, load(sparse(50<<20)), "give the guest more memory", "over the kernel")
		require.ErrorContains(t, load(sparse(1<<40)), "does not fit")
		require.NoError(t, load(sparse(30<<20)))
	}
	low := goodBzImage() // no room below initrd_addr_max
	le.PutUint32(low[hdrInitrdAddrMax:], 1<<24)
	_, err := Load(newRAM(t, 64<<20), boot.Params{Kernel: tempFile(t, "kernel", low), Initrd: sparse(1), CPUs: 1})
	require.ErrorContains(t, err, "does not fit between the kernel's end at 0x1800000 and 0x1000001")
}

func TestHostile23Cmdline(t *testing.T) {
	short := goodBzImage()
	le.PutUint32(short[hdrCmdlineSize:], 255)
	huge := goodBzImage()
	le.PutUint32(huge[hdrCmdlineSize:], math.MaxUint32)
	for _, c := range []struct {
		kernel []byte
		limit  int
	}{{goodELF(), 2047}, {goodBzImage(), 2047}, {short, 255}, {huge, cmdlineRoom - 1}} {
		load := func(n int) error {
			mem := newRAM(t, 64<<20)
			line := strings.Repeat("x", n)
			_, err := Load(mem, boot.Params{Kernel: tempFile(t, "kernel", c.kernel), CPUs: 1, Cmdline: line})
			if err == nil {
				requireRAM(t, mem, cmdlineAddr, []byte(line+"\x00"))
			}
			return err
		}
		require.NoError(t, load(c.limit))
		require.ErrorContains(t, load(c.limit+1), "shorten it", "1 byte over the limit")
		require.ErrorContains(t, load(1<<20), "command line is 1048576 bytes long")
	}
}
