package guestmem

import "unsafe"

// pointer64 lets a test write a whole word of RAM.
func pointer64(b []byte) *uint64 {
	// SAFETY: callers pass at least 8 bytes of RAM at an aligned address.
	return (*uint64)(unsafe.Pointer(&b[:8][0]))
}
