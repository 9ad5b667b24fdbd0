package guestmem

import "unsafe"

func pointer16(b []byte) *uint16 {
	// SAFETY: the caller checked that b holds two bytes at an even offset of a
	// page-aligned mapping, outside the Go heap.
	return (*uint16)(unsafe.Pointer(unsafe.SliceData(b)))
}
