package boot

import (
	"runtime"
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

// segmentDatagrams has a network card's driver leave it to the host to divide what
// programs send with UDP_SEGMENT, as QUIC's do: Linux leaves that off at first (struct
// ethtool_sfeatures). A card that does not do it refuses.
func segmentDatagrams(socket int, link string) error {
	const (
		sfeatures = 0x3b   // ETHTOOL_SFEATURES
		bit       = 1 << 1 // NETIF_F_GSO_UDP_L4, in the second block
	)
	features := struct {
		cmd, size uint32
		blocks    [2]struct{ valid, requested uint32 }
	}{cmd: sfeatures, size: 2}
	features.blocks[1].valid, features.blocks[1].requested = bit, bit
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&features)}
	copy(req.name[:unix.IFNAMSIZ-1], link)
	// SAFETY: the kernel reads and writes no more than struct ifreq and the blocks
	// that size says, both alive until after the call.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&features)
	if e != 0 {
		return e
	}
	return nil
}
