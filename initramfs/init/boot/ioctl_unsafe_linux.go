package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// deviceSize returns the bytes of a block device (BLKGETSIZE64).
func deviceSize(fd int) (size uint64, err error) {
	// SAFETY: size is live for the call, and BLKGETSIZE64 writes 8 bytes.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if e != 0 {
		return 0, e
	}
	return size, nil
}

// resize grows the ext4 that the directory fd is on to so many blocks.
func resize(fd int, blocks uint64) error {
	// SAFETY: blocks is live for the call, and EXT4_IOC_RESIZE_FS reads 8 bytes.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), extResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if e != 0 {
		return e
	}
	return nil
}
