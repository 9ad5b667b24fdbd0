package mmio

import (
	"sync/atomic"
	"unsafe"
)

// newPage returns the words of a page of memory, or of one of its own.
func newPage(memory []byte) page {
	if memory == nil {
		return make(page, Size/4)
	}
	memory = memory[:Size:Size]
	// SAFETY: memory is Size bytes at an address that Config.Page promises to be
	// aligned for words, and an atomic.Uint32 is one word. Hosts are
	// little-endian, as the registers are (§4.2.2).
	return unsafe.Slice((*atomic.Uint32)(unsafe.Pointer(unsafe.SliceData(memory))), Size/4)
}
