package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

func TestCommandLine(t *testing.T) {
	devices := []Device{{Base: 0xd0000000, Size: 4096, IRQ: 16}, {Base: 0xd0001000, Size: 512, IRQ: 5}}
	const named = "virtio_mmio.device=4K@0xd0000000:16 virtio_mmio.device=512@0xd0001000:5"
	for _, c := range []struct {
		p     Params
		limit int
		want  string
		err   string
	}{
		{p: Params{}, limit: 0, want: ""},
		{p: Params{Cmdline: "quiet"}, limit: 5, want: "quiet"},
		{p: Params{Cmdline: "quiet"}, limit: 4, err: "command line is 5 bytes long (0 of them name 0 devices) and this kernel takes 4"},
		{p: Params{Devices: devices}, limit: len(named), want: named},
		{p: Params{Devices: devices}, limit: len(named) - 1, err: "of them name 2 devices"},
		// what the kernel would hand to init, or swallow in a quote, stays behind the devices
		{p: Params{Devices: devices, Cmdline: `a -- b "c`}, limit: 200, want: named + ` a -- b "c`},
		{p: Params{Cmdline: "naïve\ttabs"}, limit: 100, want: "naïve\ttabs"},
		{p: Params{Cmdline: "a\x00"}, limit: 100, err: `'\x00' at byte 1`},
		{p: Params{Cmdline: "\n"}, limit: 100, err: `'\n' at byte 0`},
		{p: Params{Cmdline: "a\rb"}, limit: 100, err: "one line of text"},
		{p: Params{Devices: []Device{{Size: 0, IRQ: 5}}}, limit: 100, err: "device 0 at 0x0: 0 bytes"},
		{p: Params{Devices: []Device{{Size: 4096}}}, limit: 100, err: "interrupt 0"},
	} {
		got, err := c.p.CommandLine(c.limit)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add("console=ttyS0 quiet", 40, uint8(2))
	f.Add("a -- b", 2047, uint8(0))
	f.Fuzz(func(t *testing.T, line string, limit int, devices uint8) {
		p := Params{Cmdline: line}
		for i := range devices % 64 {
			p.Devices = append(p.Devices, Device{Base: guestmem.GPA(i) << 12, Size: 4096, IRQ: 5})
		}
		got, err := p.CommandLine(limit)
		if err != nil {
			return
		}
		if len(got) > limit || strings.ContainsAny(got, "\x00\n\r") || !strings.HasSuffix(got, strings.TrimRight(line, " ")) {
			t.Fatalf("%q of %d", got, limit)
		}
		if strings.Count(got, "virtio_mmio.device=") < len(p.Devices) {
			t.Fatalf("%q lacks devices", got)
		}
	})
}

func TestPlace(t *testing.T) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i>>8)*7 + byte(i) | 1
	}
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	page := uint64(max(guestmem.PageSize, os.Getpagesize()))

	for _, c := range []struct {
		name   string
		at     guestmem.GPA
		off    int64
		n      uint64
		mapped uint64
	}{
		{"nothing", 1 << 20, 0, 0, 0},
		{"one byte", 1<<20 + 5, 77, 1, 0},
		{"whole pages", 1 << 20, 0, 32 * page, 32 * page},
		{"all of the file", 1 << 20, 0, 1 << 20, 1 << 20},
		{"tail", 1 << 20, int64(page), 32*page + 1, 32 * page},
		{"head and tail", 1<<20 + 100, 100, 32 * page, 31 * page},
		{"out of step", 1<<20 + 100, 101, 32 * page, 0},
		{"too little to map", 1 << 20, 0, minMapped - page, 0},
		{"end of RAM", 4<<20 - guestmem.GPA(32*page), 0, 32 * page, 32 * page},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem, err := guestmem.New(guestmem.Range{Base: 0, Size: 4 << 20})
			require.NoError(t, err)
			defer mem.Close()
			p, err := Place(mem, c.at, file, c.off, c.n, true)
			require.NoError(t, err)
			require.Equal(t, Placed{Mapped: c.mapped, Copied: c.n - c.mapped}, p)
			got := make([]byte, 4<<20)
			require.NoError(t, mem.Read(got, 0))
			want := make([]byte, 4<<20)
			copy(want[c.at:], data[c.off:c.off+int64(c.n)])
			require.True(t, bytes.Equal(want, got), "exactly the bytes asked for, and zero around them")

			copied, err := guestmem.New(guestmem.Range{Base: 0, Size: 4 << 20})
			require.NoError(t, err)
			defer copied.Close()
			p, err = Place(copied, c.at, file, c.off, c.n, false)
			require.NoError(t, err)
			require.Equal(t, Placed{Copied: c.n}, p)
			require.NoError(t, copied.Read(got, 0))
			require.True(t, bytes.Equal(want, got), "copied as it would be mapped")
		})
	}
}

func TestPlaceRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, make([]byte, 100), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	mem, err := guestmem.New(guestmem.Range{Base: 0, Size: 1 << 20}, guestmem.Range{Base: 1 << 20, Size: 1 << 20})
	require.NoError(t, err)
	defer mem.Close()
	for _, c := range []struct {
		at  guestmem.GPA
		off int64
		n   uint64
	}{{2 << 20, 0, 1}, {1<<20 - 1, 0, 2}, {0, -1, 1}, {1 << 63, 0, 100}, {0, 0, 1 << 63}, {8, 0, ^uint64(0)}} {
		_, err := Place(mem, c.at, file, c.off, c.n, true)
		require.ErrorIs(t, err, guestmem.ErrOutside, "%v", c)
	}
	_, err = Place(mem, 0, file, 50, 51, true) // the file shrank meanwhile
	require.ErrorContains(t, err, "read 51 bytes of")
	write, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer write.Close()
	_, err = Place(mem, 0, write, 0, 100, true)
	require.Error(t, err)
}

func TestIdentify(t *testing.T) {
	at := func(off int, s string) []byte {
		b := make([]byte, 1024)
		copy(b[off:], s)
		return b
	}
	bz := at(0x202, "HdrS")
	bz[510], bz[511] = 0x55, 0xaa
	for _, c := range []struct {
		head []byte
		want Kind
	}{
		{nil, "empty"},
		{bz, BzImage},
		{append([]byte("MZ"), bz[2:]...), BzImage}, // with an EFI stub
		{bz[:512], "a disk image or a boot sector"},
		{at(0x38, "ARM\x64"), ARM64Image},
		{append([]byte("MZ"), at(0x38, "ARM\x64")[2:]...), ARM64Image},
		{at(0, "MZ\x00\x00zimg"), "an EFI zboot kernel"},
		{at(0, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"), ELFX86},
		{at(0, "\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7"), "an ELF file for arm64"},
		{[]byte("\x7fELF\x02"), "an ELF file cut short"},
		{at(257, "ustar"), "a tar archive; unpack it first"},
		{[]byte("hello\n"), "a text file"},
		{[]byte{0, 1, 2}, "unknown data that begins with 00 01 02"},
	} {
		require.Equal(t, c.want, Identify(c.head))
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if kind := string(Identify(head)); kind == "" || len(kind) > 100 || strings.ContainsAny(kind, "\n\x00") {
			t.Fatalf("%q", kind)
		}
	})
}
