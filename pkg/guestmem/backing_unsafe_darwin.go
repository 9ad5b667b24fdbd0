package guestmem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// backing is private anonymous memory.
type backing struct{}

func (backing) mapRAM(size uint64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	return b, os.NewSyscallError("mmap", err)
}

func (backing) unmap(b []byte) error { return os.NewSyscallError("munmap", unix.Munmap(b)) }

// MapFile replaces the n bytes of RAM at a guest address by a private mapping
// of a file. Preconditions as on Linux, with the host's page size (16 KiB on
// Apple silicon) as the granularity.
func (m *Memory) MapFile(at GPA, file *os.File, off int64, n int) error {
	page := os.Getpagesize()
	whole := (n + page - 1) &^ (page - 1)
	b, err := m.Slice(at, whole)
	if err != nil {
		return err
	}
	if uint64(at)%uint64(page) != 0 || off%int64(page) != 0 || off < 0 || n <= 0 {
		return os.NewSyscallError("mmap", unix.EINVAL)
	}
	// SAFETY: b is page-aligned memory of this Memory's own mapping, which
	// MAP_FIXED replaces in place; its length does not change.
	_, err = unix.MmapPtr(int(file.Fd()), off, unsafe.Pointer(unsafe.SliceData(b)), uintptr(whole),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
	return os.NewSyscallError("mmap", err)
}
