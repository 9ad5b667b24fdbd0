package ethtool

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SegmentUDP has the driver of a network card leave it to the card to divide what
// programs send with UDP_SEGMENT (udp(7)), as QUIC's do: struct ethtool_sfeatures. A
// driver that cannot refuses. socket is any socket; link is the card's name.
func SegmentUDP(socket int, link string) error {
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
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&features)
	if errno != 0 {
		return os.NewSyscallError("ETHTOOL_SFEATURES", errno)
	}
	return nil
}
