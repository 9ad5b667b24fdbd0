package guestmem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// backing is the memfd behind all regions of one guest.
type backing struct{ fd int }

func (f *backing) open(size uint64) error {
	fd, err := unix.MemfdCreate("guest-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f.fd = fd
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		f.close()
		return os.NewSyscallError("ftruncate", err)
	}
	// A file that cannot shrink cannot raise SIGBUS under a vCPU or a device.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.close()
		return os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return nil
}

func (f *backing) mapShared(off, size uint64) ([]byte, error) {
	b, err := unix.Mmap(f.fd, int64(off), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// Huge pages save most of the faults of a boot where the host allows them for memfds; a refusal costs nothing.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	// A core dump of the VMM must not carry the guest's secrets.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	return b, nil
}

func (f *backing) unmap(b []byte) error {
	// x/sys only unmaps slices it mapped itself; these are.
	return os.NewSyscallError("munmap", unix.Munmap(b))
}

func (f *backing) close() error {
	if f.fd <= 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

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
