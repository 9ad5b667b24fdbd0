package x86

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/boot"
	"github.com/anthropics/boxlite/pkg/guestmem"
)

// fuzzLoad loads whatever it is given. It may be refused; if it is not, all
// that was promised must hold: the entry lies in the kernel, the kernel in RAM
// above the tables, and the tables are as they should be.
func fuzzLoad(f *testing.F) {
	path := filepath.Join(f.TempDir(), "kernel")
	f.Fuzz(func(t *testing.T, image []byte) {
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		mem, err := guestmem.New(guestmem.Range{Base: 0, Size: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		e, err := Load(mem, boot.Params{Kernel: file, CPUs: 2, Cmdline: "quiet", Share: len(image)%2 == 0})
		if err != nil {
			return
		}
		if e.RIP < highMemory || !mem.Contains(guestmem.GPA(e.RIP), 1) {
			t.Fatalf("entry %#x", e.RIP)
		}
		if e.Mapped+e.Copied > uint64(len(image))*maxSegments || e.Mapped+e.Copied > 32<<20 {
			t.Fatalf("%d bytes mapped and %d copied of %d", e.Mapped, e.Copied, len(image))
		}
		if !bytes.Equal(ram(t, mem, mpTableAddr, len(mpTable(2))), mpTable(2)) ||
			!bytes.Equal(ram(t, mem, cmdlineAddr, 6), []byte("quiet\x00")) {
			t.Fatal("tables were overwritten")
		}
		if e.Mode == "pvh" && le.Uint32(ram(t, mem, e.RBX, 4)) != startInfoMagic {
			t.Fatal("start_info was overwritten")
		}
	})
}

func FuzzELF(f *testing.F) {
	f.Add(elf(
		phdr{typ: ptLoad, off: 0x200, paddr: 1 << 24, data: pattern(300, 1), memsz: 1 << 20},
		phdr{typ: ptLoad, off: 0x400, paddr: 1<<24 + 1<<20, data: pattern(100, 2)},
		phdr{typ: ptNote, off: 0x500, data: entryNote(1 << 24)},
	))
	f.Add(elf(phdr{typ: ptNote, off: 0x100, data: entryNote(1 << 24)}))
	fuzzLoad(f)
}

func FuzzBzImage(f *testing.F) {
	image := goodBzImage()[:5*sector+1024]
	image[hdrSetupSects] = 0
	le.PutUint32(image[hdrSyssize:], 64)
	f.Add(image)
	f.Add(image[:hdrLimit])
	fuzzLoad(f)
}

// FuzzNotes: whatever bytes a note segment has, the walk ends and stays inside.
func FuzzNotes(f *testing.F) {
	f.Add(entryNote(1<<24), uint64(4))
	f.Add(append(note("Linux", 1, []byte("six")), entryNote(5)...), uint64(8))
	f.Add(note("Xen", noteEntry, []byte{1, 2, 3, 4}), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, align uint64) {
		entry, err := findEntry(b, align)
		if err == nil && entry>>32 != 0 || err != nil && entry != 0 {
			t.Fatalf("entry %#x, %v", entry, err)
		}
	})
}
