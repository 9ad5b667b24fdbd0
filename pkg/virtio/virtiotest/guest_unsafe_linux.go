package virtiotest

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// look is how often a driver in a guest looks for what an interrupt would tell.
const look = 200 * time.Microsecond

// OpenGuest returns a driver that runs in a booted guest, past the guest's kernel: it
// works the register window at an address, and lays its rings and requests into a
// range of RAM, through /dev/mem (mem(4)). The kernel must not use that range (its
// parameter mem= leaves it out), and no driver of the kernel may have the device. The
// device is reset at the end of the test.
func OpenGuest(t testing.TB, registers guestmem.GPA, ram guestmem.Range) *Driver {
	t.Helper()
	mem, err := guestmem.New(ram)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	dev, err := os.OpenFile("/dev/mem", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	b := mem.Regions()[0].Bytes
	// SAFETY: b is page-aligned memory of a mapping of ours, which MAP_FIXED replaces
	// in place; its length does not change.
	if _, err := unix.MmapPtr(int(dev.Fd()), int64(ram.Base), unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		t.Fatalf("virtiotest: map RAM at %v: %v", ram.Base, err)
	}
	window, err := unix.Mmap(int(dev.Fd()), int64(registers), guestmem.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("virtiotest: map registers at %v: %v", registers, err)
	}
	t.Cleanup(func() { unix.Munmap(window) })

	d := New(t, mem, registerWindow(window))
	stop := make(chan struct{})
	go func() {
		for tick := time.NewTicker(look); ; {
			select {
			case <-tick.C:
				d.Interrupt()
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		d.Reset()
	})
	return d
}

// registerWindow is registers that this machine's CPU reaches. It takes them in pieces
// of 32 bits where it can, of 8 otherwise, each by one instruction.
type registerWindow []byte

func (w registerWindow) ReadMMIO(off uint64, p []byte) {
	for ; len(p) > 0 && (off%4 != 0 || len(p) < 4); off, p = off+1, p[1:] {
		p[0] = w[off]
	}
	for ; len(p) >= 4; off, p = off+4, p[4:] {
		// SAFETY: aligned, and within the window, as Go has checked.
		v := atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(w[off : off+4]))))
		binary.LittleEndian.PutUint32(p, v)
	}
	for i := range p {
		p[i] = w[off+uint64(i)]
	}
}

// WriteMMIO does not use atomic stores: on x86 they are XCHG, which reads as well.
func (w registerWindow) WriteMMIO(off uint64, p []byte) {
	guestmem.Fence()
	if len(p) == 4 && off%4 == 0 {
		// SAFETY: as above.
		store32((*uint32)(unsafe.Pointer(unsafe.SliceData(w[off:off+4]))), binary.LittleEndian.Uint32(p))
		return
	}
	for i, b := range p {
		w[off+uint64(i)] = b
	}
}

//go:noinline
func store32(p *uint32, v uint32) { *p = v }
