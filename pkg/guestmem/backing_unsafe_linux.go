package guestmem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// backing is private anonymous memory. A memfd would let another process map the
// RAM, but nobody does, and hosts do not give memfds huge pages unless told to:
// booting from 4 KiB pages took twice the instructions (docs/BENCHMARKS.md).
type backing struct{}

func (backing) mapRAM(size uint64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// A host without huge pages refuses, which costs nothing but time.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	// A core dump of the VMM must not carry the guest's secrets.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	return b, nil
}

func (backing) unmap(b []byte) error { return os.NewSyscallError("munmap", unix.Munmap(b)) }

// MapFile replaces the n bytes of RAM at a guest address by a private mapping
// of a file: pages come from the host's page cache and are copied when written.
// Address and offset must be page-aligned; the bytes of the last page beyond n
// are the file's, or zero beyond its end. It must be called before any vCPU
// runs. A file that shrinks later kills whoever touches the lost pages, so the
// caller must own it.
func (m *Memory) MapFile(at GPA, file *os.File, off int64, n int) error {
	whole := (n + PageSize - 1) &^ (PageSize - 1)
	b, err := m.Slice(at, whole)
	if err != nil {
		return err
	}
	if at%PageSize != 0 || off%PageSize != 0 || off < 0 || n <= 0 {
		return os.NewSyscallError("mmap", unix.EINVAL)
	}
	// SAFETY: b is page-aligned memory of this Memory's own mapping, which
	// MAP_FIXED replaces in place; its length does not change.
	_, err = unix.MmapPtr(int(file.Fd()), off, unsafe.Pointer(unsafe.SliceData(b)), uintptr(whole),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
	return os.NewSyscallError("mmap", err)
}
