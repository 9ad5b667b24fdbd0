package x86

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// phdr is a program header with its bytes.
type phdr struct {
	typ, align  uint64
	paddr       uint64
	memsz       uint64
	data        []byte
	off         uint64 // where data goes
	fakeOff     uint64 // what the header says instead, if not 0
	fakeFilesz  uint64
	keepFakeMem bool // memsz as given, even if smaller than data
}

// note encodes one ELF note.
func note(name string, typ uint32, desc []byte) []byte {
	b := le.AppendUint32(nil, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, typ)
	b = append(b, name+"\x00"...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	b = append(b, desc...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func entryNote(entry uint64) []byte { return note("Xen", noteEntry, le.AppendUint64(nil, entry)) }

// pattern is bytes that differ from page to page and are never zero.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251) ^ byte(i>>12) ^ seed | 1
	}
	return b
}

// elf writes an x86-64 ELF file with these program headers.
func elf(headers ...phdr) []byte {
	b := make([]byte, ehSize+phSize*len(headers))
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], etExec)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[32:], ehSize)
	le.PutUint16(b[54:], phSize)
	le.PutUint16(b[56:], uint16(len(headers)))
	for i, h := range headers {
		p := b[ehSize+phSize*i:]
		off, filesz, memsz := h.off, uint64(len(h.data)), max(h.memsz, uint64(len(h.data)))
		if h.fakeOff != 0 {
			off = h.fakeOff
		}
		if h.fakeFilesz != 0 {
			filesz = h.fakeFilesz
		}
		if h.keepFakeMem {
			memsz = h.memsz
		}
		le.PutUint32(p, uint32(h.typ))
		le.PutUint64(p[8:], off)
		le.PutUint64(p[24:], h.paddr)
		le.PutUint64(p[32:], filesz)
		le.PutUint64(p[40:], memsz)
		le.PutUint64(p[48:], h.align)
	}
	for _, h := range headers {
		if end := int(h.off) + len(h.data); end > len(b) {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[h.off:], h.data)
	}
	return b
}

const testEntry = 1<<24 + 0x130

// goodELF is a vmlinux of 300 KB: text, data with bss, notes.
func goodELF() []byte {
	return elf(
		phdr{typ: ptLoad, off: 0x10000, paddr: 1 << 24, data: pattern(200_000, 1)},
		phdr{typ: ptLoad, off: 0x50000, paddr: 1<<24 + 0x80000, data: pattern(100_000, 2), memsz: 1 << 20},
		phdr{typ: ptNote, off: 0x70000, data: append(note("Linux", 1, []byte("six")), entryNote(testEntry)...)},
	)
}

// goodBzImage has 40 sectors of setup, as Linux 6.12 has, so that its code is page-aligned.
func goodBzImage() []byte {
	const code = 150_000
	b := make([]byte, 40*sector+code)
	copy(b[40*sector:], pattern(code, 3))
	b[hdrSetupSects] = 39
	le.PutUint32(b[hdrSyssize:], code/16)
	b[510], b[511] = 0x55, 0xaa
	b[0x200], b[hdrJump] = 0xeb, 0x6a
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[hdrVersion:], 0x20f)
	b[hdrLoadflags] = loadflagLoadedHigh
	le.PutUint32(b[hdrInitrdAddrMax:], 0x7fffffff)
	le.PutUint32(b[0x230:], 0x200000) // kernel_alignment
	b[0x234] = 1                      // relocatable_kernel
	le.PutUint16(b[hdrXloadflags:], 0x7f)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint64(b[hdrPrefAddress:], 1<<24)
	le.PutUint32(b[hdrInitSize:], 8<<20)
	return b
}

// tempFile returns an open file with this content.
func tempFile(t testing.TB, name string, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func newRAM(t testing.TB, bytes uint64) *guestmem.Memory {
	t.Helper()
	ranges, err := Ranges(bytes)
	require.NoError(t, err)
	mem, err := guestmem.New(ranges...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mem.Close()) })
	return mem
}

func ram(t testing.TB, mem *guestmem.Memory, at uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	require.NoError(t, mem.Read(b, guestmem.GPA(at)))
	return b
}

// mapped is how much of n bytes at a file offset can be mapped at an address.
func mapped(off, at, n uint64) uint64 {
	page := uint64(max(guestmem.PageSize, os.Getpagesize()))
	if (off-at)%page != 0 {
		return 0
	}
	from, to := (at+page-1)/page*page, (at+n)/page*page
	return to - from
}

// requireRAM compares without printing megabytes.
func requireRAM(t testing.TB, mem *guestmem.Memory, at uint64, want []byte) {
	t.Helper()
	got := ram(t, mem, at, len(want))
	if !bytes.Equal(got, want) {
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("RAM at %#x is %#x, want %#x", at+uint64(i), got[i], want[i])
			}
		}
	}
}
