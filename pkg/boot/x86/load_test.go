package x86

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var b strings.Builder
	for _, line := range strings.SplitAfter(hex.Dump(got), "\n") {
		if len(line) > 60 && strings.Trim(line[8:58], " 0") != "" { // not all zero
			b.WriteString(line)
		}
	}
	path, text := "testdata/"+name, b.String()
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

func TestRanges(t *testing.T) {
	one := func(n uint64) []guestmem.Range { return []guestmem.Range{{Base: 0, Size: n}} }
	for _, c := range []struct {
		bytes uint64
		want  []guestmem.Range
		err   string
	}{
		{bytes: MinMemory, want: one(MinMemory)},
		{bytes: HoleBase, want: one(HoleBase)},
		{bytes: HoleBase + 4096, want: []guestmem.Range{{Base: 0, Size: HoleBase}, {Base: HighBase, Size: 4096}}},
		{bytes: MaxMemory, want: []guestmem.Range{{Base: 0, Size: HoleBase}, {Base: HighBase, Size: MaxMemory - HoleBase}}},
		{bytes: 0, err: "0 bytes of memory are too few; at least 16 MiB"},
		{bytes: 1 << 20, err: "too few"},
		{bytes: MinMemory - 1, err: "too few"},
		{bytes: MaxMemory + 4096, err: "too many; the most is 523264 MiB"},
		{bytes: 1 << 40, err: "1048576 MiB of memory are too many"},
		{bytes: ^uint64(0), err: "too many"},
		{bytes: 64<<20 + 1, err: "not whole pages"},
	} {
		got, err := Ranges(c.bytes)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, "%d", c.bytes)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}

func TestVirtio(t *testing.T) {
	exclusive := map[uint32]bool{}
	for n := range MaxVirtio {
		d, err := Virtio(n)
		require.NoError(t, err)
		require.EqualValues(t, VirtioBase+n*VirtioSize, d.Base)
		require.NotContains(t, []uint32{0, 1, 2, COM1IRQ, 8}, d.IRQ)
		require.Less(t, d.IRQ, uint32(ioapicPins))
		if n < VirtioLines {
			require.False(t, exclusive[d.IRQ], "line %d twice", d.IRQ)
			exclusive[d.IRQ] = true
		} else {
			require.True(t, exclusive[d.IRQ])
		}
	}
	_, err := Virtio(-1)
	require.Error(t, err)
	_, err = Virtio(MaxVirtio)
	require.ErrorContains(t, err, "virtio device 40 of at most 40")
}

func TestLoadPVH(t *testing.T) {
	mem := newRAM(t, 64<<20)
	initrd := pattern(100_001, 7)
	d, err := Virtio(0)
	require.NoError(t, err)
	e, err := Load(mem, boot.Params{
		Kernel: tempFile(t, "vmlinux", goodELF()), Initrd: tempFile(t, "initrd", initrd),
		Cmdline: "console=ttyS0 quiet", CPUs: 1, Devices: []boot.Device{d}, Share: true,
	})
	require.NoError(t, err)
	require.Equal(t, uint64(200_000+100_000+len(initrd)), e.Mapped+e.Copied)
	at := uint64(64<<20-100_001) &^ 0xffff
	require.Equal(t, mapped(0x10000, 1<<24, 200_000)+mapped(0x50000, 1<<24+0x80000, 100_000)+mapped(0, at, 100_001), e.Mapped)
	require.NotZero(t, e.Mapped)
	require.Equal(t, Entry{Mode: "pvh", RIP: testEntry, RBX: startInfoAddr, RSP: stackTop, Mapped: e.Mapped, Copied: e.Copied}, e)

	// segments, and nothing of the file behind them: bss stays zero
	requireRAM(t, mem, 1<<24, append(pattern(200_000, 1), make([]byte, 0x80000-200_000)...))
	requireRAM(t, mem, 1<<24+0x80000, append(pattern(100_000, 2), make([]byte, 1<<20-100_000)...))

	// initrd: as high as it goes, zero behind it
	requireRAM(t, mem, at, append(initrd, make([]byte, 64<<20-at-100_001)...))

	// start_info, its module list and memory map, byte by byte
	line := "virtio_mmio.device=4K@0xd0000000:16 console=ttyS0 quiet\x00"
	requireRAM(t, mem, cmdlineAddr, []byte(line))
	golden(t, "start_info.golden", ram(t, mem, startInfoAddr, 0x100))
	info := ram(t, mem, startInfoAddr, 56)
	require.EqualValues(t, 0x336ec578, le.Uint32(info))
	require.EqualValues(t, cmdlineAddr, le.Uint64(info[24:]))
	mod := ram(t, mem, le.Uint64(info[16:]), 32)
	require.Equal(t, at, le.Uint64(mod))
	require.EqualValues(t, 100_001, le.Uint64(mod[8:]))
}

func TestLoadPVHWithoutInitrd(t *testing.T) {
	mem := newRAM(t, 64<<20)
	e, err := Load(mem, boot.Params{Kernel: tempFile(t, "vmlinux", goodELF()), CPUs: MaxCPUs})
	require.NoError(t, err)
	require.Equal(t, "pvh", e.Mode)
	info := ram(t, mem, startInfoAddr, 56)
	require.Zero(t, le.Uint32(info[12:]), "modules")
	require.Zero(t, le.Uint64(info[16:]))
	require.Zero(t, ram(t, mem, cmdlineAddr, 1)[0])
}

// Segments whose offset and address disagree within a page cannot be mapped.
func TestLoadPVHUnaligned(t *testing.T) {
	mem := newRAM(t, 64<<20)
	text, data := pattern(200_000, 4), pattern(300_000, 5)
	e, err := Load(mem, boot.Params{CPUs: 1, Share: true, Kernel: tempFile(t, "vmlinux", elf(
		phdr{typ: ptLoad, off: 0x1010, paddr: 1 << 24, data: text},             // copied
		phdr{typ: ptLoad, off: 0x40123, paddr: 1<<25 + 0x123, data: data},      // head and tail copied
		phdr{typ: ptLoad, off: 0x1000, paddr: 1<<25 + 0x80000, memsz: 1 << 16}, // bss only
		phdr{typ: ptNote, off: 0x100000, data: entryNote(1 << 24)},
	))})
	require.NoError(t, err)
	requireRAM(t, mem, 1<<24, append(text, make([]byte, 5000)...))
	requireRAM(t, mem, 1<<25, append(append(make([]byte, 0x123), data...), make([]byte, 5000)...))
	require.Equal(t, mapped(0x40123, 1<<25+0x123, 300_000), e.Mapped)
	require.NotZero(t, e.Mapped)
	require.Equal(t, 500_000-e.Mapped, e.Copied)
}

func TestLoadBzImage(t *testing.T) {
	mem := newRAM(t, 4<<30)
	image, initrd := goodBzImage(), pattern(70_000, 9)
	e, err := Load(mem, boot.Params{
		Kernel: tempFile(t, "vmlinuz", append(image, "a signature"...)), Initrd: tempFile(t, "initrd", initrd),
		Cmdline: "root=/dev/vda", CPUs: 4, Share: true,
	})
	require.NoError(t, err)
	require.Equal(t, Entry{
		Mode: "bzimage64", Long: true, CR3: pageTableAddr, RIP: 1<<24 + 0x200, RSI: zeroPageAddr, RSP: stackTop,
		Mapped: mapped(40*sector, 1<<24, 150_000) + mapped(0, 0, 70_000), Copied: 150_000 + 70_000 - e.Mapped,
	}, e)
	requireRAM(t, mem, 1<<24, append(image[40*sector:], make([]byte, 5000)...))
	requireRAM(t, mem, cmdlineAddr, []byte("root=/dev/vda\x00"))

	z := ram(t, mem, zeroPageAddr, 4096)
	golden(t, "zeropage.golden", z)
	require.Zero(t, z[0x1ef], "sentinel")
	require.EqualValues(t, 0xff, z[0x210])
	require.EqualValues(t, cmdlineAddr, le.Uint32(z[0x228:]))
	at := uint64(le.Uint32(z[0x218:]))
	require.LessOrEqual(t, at+70_000, uint64(0x8000_0000), "initrd_addr_max")
	require.EqualValues(t, 70_000, le.Uint32(z[0x21c:]))
	requireRAM(t, mem, at, append(initrd, make([]byte, 1000)...))
	require.EqualValues(t, 5, z[0x1e8], "E820 entries: RAM, reserved, RAM, reserved, RAM above 4 GiB")
}

// The page tables map the first 4 GiB one to one: walked as the CPU walks them.
func TestIdentityTables(t *testing.T) {
	mem := newRAM(t, MinMemory)
	require.NoError(t, mem.Write(identityTables(), pageTableAddr))
	word := func(at uint64) uint64 { return le.Uint64(ram(t, mem, at, 8)) }
	walk := func(va uint64) (pa uint64, ok bool) {
		e := word(pageTableAddr + va>>39&511*8)
		if e&3 != 3 {
			return 0, false
		}
		if e = word(e&^4095 + va>>30&511*8); e&3 != 3 {
			return 0, false
		}
		if e = word(e&^4095 + va>>21&511*8); e&0x83 != 0x83 {
			return 0, false
		}
		return e&^(1<<21-1) | va&(1<<21-1), true
	}
	for _, va := range []uint64{0, 0x1234, 1<<21 - 1, 1 << 21, 1 << 30, 3<<30 + 5<<21 + 7, 1<<32 - 1} {
		pa, ok := walk(va)
		require.True(t, ok, "%#x", va)
		require.Equal(t, va, pa)
	}
	_, ok := walk(1 << 32)
	require.False(t, ok)
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 2, 64, MaxCPUs} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			mem := newRAM(t, MinMemory)
			require.NoError(t, writeMPTable(mem, cpus))
			p := ram(t, mem, mpPointerAddr, 16)
			require.Equal(t, "_MP_", string(p[:4]))
			require.Zero(t, sum(p))
			at := uint64(le.Uint32(p[4:]))
			h := ram(t, mem, at, 44)
			require.Equal(t, "PCMP", string(h[:4]))
			b := ram(t, mem, at, int(le.Uint16(h[4:])))
			require.Zero(t, sum(b))
			require.LessOrEqual(t, at+uint64(len(b)), uint64(mpPointerAddr))
			require.EqualValues(t, LAPICBase, le.Uint32(h[36:]))
			if cpus == 2 {
				golden(t, "mptable.golden", append(b, p...))
			}

			var ids []byte
			pins := map[byte]byte{}
			ioapic, entries := -1, 0
			for b = b[44:]; len(b) > 0; entries++ {
				n := 8
				switch b[0] {
				case mpProcessor:
					require.Equal(t, len(ids) == 0, b[3]&mpCPUBoot != 0, "the first is the boot CPU")
					require.NotZero(t, b[3]&mpCPUEnabled)
					ids = append(ids, b[1])
					n = 20
				case mpBus:
					require.Equal(t, "ISA   ", string(b[2:8]))
				case mpIOAPIC:
					ioapic = int(b[1])
					require.EqualValues(t, IOAPICBase, le.Uint32(b[4:]))
				case mpIOInt:
					require.EqualValues(t, ioapic, b[6])
					pins[b[7]] = b[5]
				case mpLocalInt:
					require.EqualValues(t, 0xff, b[6])
				default:
					t.Fatalf("entry type %d", b[0])
				}
				b = b[n:]
			}
			require.EqualValues(t, le.Uint16(h[34:]), entries)
			require.Len(t, ids, cpus)
			for i, id := range ids {
				require.EqualValues(t, i, id)
				require.NotEqualValues(t, ioapic, id)
			}
			for _, irq := range append([]uint32{COM1IRQ}, virtioLines[:]...) {
				require.EqualValues(t, irq, pins[byte(irq)], "pin %d", irq)
			}
			require.NotContains(t, pins, byte(2))
		})
	}
}

func TestMemMapCoversRAM(t *testing.T) {
	for _, size := range []uint64{MinMemory, 256 << 20, HoleBase, HoleBase + 1<<30} {
		mem := newRAM(t, size)
		var free uint64
		var end uint64
		for i, e := range memMap(mem) {
			require.Equal(t, i > 0 && e.addr < end, false, "ascending, disjoint")
			end = e.addr + e.size
			if e.typ == e820RAM {
				free += e.size
				require.True(t, mem.Contains(guestmem.GPA(e.addr), e.size))
			}
		}
		require.Equal(t, size-(highMemory-lowReserved), free)
	}
}

func TestLoadRefusesParams(t *testing.T) {
	kernel := func() *os.File { return tempFile(t, "vmlinux", goodELF()) }
	for _, c := range []struct {
		p   boot.Params
		err string
	}{
		{boot.Params{}, "0 CPUs; 1 to 254"},
		{boot.Params{CPUs: 1000}, "1000 CPUs; 1 to 254"},
		{boot.Params{CPUs: 1}, "no kernel given"},
		{boot.Params{CPUs: 1, Kernel: kernel(), Devices: []boot.Device{{Base: 1 << 20, Size: 4096, IRQ: 5}}}, "device 0 at 0x100000"},
		{boot.Params{CPUs: 1, Kernel: kernel(), Devices: []boot.Device{{Base: VirtioBase, Size: 4096, IRQ: 24}}}, "interrupt 24"},
		{boot.Params{CPUs: 1, Kernel: kernel(), Devices: []boot.Device{{Base: VirtioBase, IRQ: 4}}}, "0 bytes with interrupt 4"},
		{boot.Params{CPUs: 1, Kernel: kernel(), Cmdline: "a\x00b"}, `has '\x00' at byte 1`},
		{boot.Params{CPUs: 1, Kernel: kernel(), Cmdline: "a\nb"}, "one line of text"},
	} {
		_, err := Load(newRAM(t, 64<<20), c.p)
		require.ErrorContains(t, err, c.err)
		require.NotContains(t, err.Error(), "\n")
	}
	foreign, err := guestmem.New(guestmem.Range{Base: 1 << 30, Size: 1 << 30})
	require.NoError(t, err)
	defer foreign.Close()
	_, err = Load(foreign, boot.Params{CPUs: 1, Kernel: kernel()})
	require.ErrorContains(t, err, "not laid out by Ranges")
}

func TestCommandLineHoldsAllDevices(t *testing.T) {
	p := boot.Params{Cmdline: strings.Repeat("x", 600)}
	for n := range MaxVirtio {
		d, err := Virtio(n)
		require.NoError(t, err)
		p.Devices = append(p.Devices, d)
	}
	_, err := p.CommandLine((&vmlinux{}).cmdlineLimit())
	require.NoError(t, err)
}

// The tables are found from the root pointer as a kernel finds them, and add up.
func TestACPI(t *testing.T) {
	for _, cpus := range []int{1, 2, MaxCPUs} {
		mem := newRAM(t, MinMemory)
		var devices []boot.Device
		for n := range MaxVirtio {
			d, err := Virtio(n)
			require.NoError(t, err)
			devices = append(devices, d)
		}
		require.NoError(t, writeACPI(mem, cpus, devices))
		table := func(at uint64, signature string) []byte {
			b := ram(t, mem, at, int(le.Uint32(ram(t, mem, at+4, 4))))
			require.Equal(t, signature, string(b[:4]))
			require.Zero(t, sum(b), signature)
			require.Zero(t, at%16)
			return b
		}
		root := ram(t, mem, acpiAddr, 36)
		require.Equal(t, "RSD PTR ", string(root[:8]))
		require.Zero(t, sum(root[:20]))
		require.Zero(t, sum(root))
		xsdt := table(le.Uint64(root[24:]), "XSDT")
		require.Len(t, xsdt, acpiHeader+16)
		fadt := table(le.Uint64(xsdt[36:]), "FACP")
		require.Len(t, fadt, fadtSize)
		madt := table(le.Uint64(xsdt[44:]), "APIC")
		ids := 0
		for b := madt[44:]; len(b) > 0; b = b[b[1]:] {
			if b[0] == madtLAPIC {
				require.EqualValues(t, ids, b[3])
				ids++
			}
		}
		require.Equal(t, cpus, ids)
		dsdt := table(le.Uint64(fadt[140:]), "DSDT")
		require.Equal(t, MaxVirtio, strings.Count(string(dsdt), "LNRO0005"))
		if cpus == 2 {
			golden(t, "acpi.golden", ram(t, mem, acpiAddr, 0x400))
		}
	}
	mem := newRAM(t, MinMemory)
	require.ErrorContains(t, writeACPI(mem, 1, make([]boot.Device, 1000)), "of at most 16384")
}

func TestAMLPackageLength(t *testing.T) {
	for _, n := range []int{0, 62, 63, 4093, 4094, 70_000} {
		b := amlPackage([]byte{0x10}, make([]byte, n))
		b = b[1:]
		extra := int(b[0] >> 6)
		length := int(b[0] & 0x3f)
		if extra > 0 {
			length = int(b[0] & 0x0f)
			for i := range extra {
				length |= int(b[1+i]) << (4 + 8*i)
			}
		}
		require.Equal(t, len(b), length, "%d", n)
	}
}
