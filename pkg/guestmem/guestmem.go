// Package guestmem is the RAM of one guest: regions of guest-physical address
// space in huge pages where the host has them, bounds and overflow checks for
// every address that a guest hands over, and the only place that orders memory against the guest.
//
// Consumers (devices, loaders) can look at and slice RAM; only the owner of the
// [Memory] can create, map or free it. Every method but Close and MapFile may be
// called from any goroutine. RAM is shared with a running guest: bytes read
// twice may differ, so copy a structure once and judge the copy.
package guestmem

import (
	"errors"
	"fmt"
	"math/bits"
)

// GPA is a guest-physical address in bytes.
type GPA uint64

func (a GPA) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// PageSize is the granularity of regions and file mappings, in bytes.
const PageSize = 4096

// ErrOutside is wrapped by every error about an address range that is not RAM.
var ErrOutside = errors.New("outside guest RAM")

// Range is a stretch of guest-physical address space.
type Range struct {
	Base GPA
	Size uint64 // bytes
}

// Region is a stretch of RAM and the host memory behind it. Bytes stay valid
// until the Memory is closed.
type Region struct {
	Base  GPA
	Bytes []byte
}

// Memory is the RAM of one guest.
type Memory struct {
	regions []Region
	size    uint64
}

// New reserves RAM for the given ranges, which must be page-aligned, not empty,
// ascending and disjoint. Pages are zero, and cost nothing until touched.
func New(ranges ...Range) (*Memory, error) {
	var size, end uint64
	for i, r := range ranges {
		last, carry := bits.Add64(uint64(r.Base), r.Size, 0)
		switch {
		case r.Size == 0 || r.Size%PageSize != 0 || uint64(r.Base)%PageSize != 0:
			return nil, fmt.Errorf("guestmem: region %d at %v of %d bytes is not whole pages", i, r.Base, r.Size)
		case carry != 0 || int64(r.Size) < 0:
			return nil, fmt.Errorf("guestmem: region %d at %v of %d bytes ends beyond the address space", i, r.Base, r.Size)
		case i > 0 && uint64(r.Base) < end:
			return nil, fmt.Errorf("guestmem: region %d at %v overlaps or precedes the one before it", i, r.Base)
		}
		end = last
		size += r.Size
	}
	if size == 0 || int64(size) < 0 {
		return nil, fmt.Errorf("guestmem: %d bytes of RAM in %d regions", size, len(ranges))
	}
	m := &Memory{size: size}
	for _, r := range ranges {
		b, err := backing{}.mapRAM(r.Size)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("guestmem: map %d MiB at %v: %w", r.Size>>20, r.Base, err)
		}
		m.regions = append(m.regions, Region{r.Base, b})
	}
	return m, nil
}

// Close gives the RAM back. No slice of it may be used afterwards, and no vCPU
// may be running. Closing twice is harmless.
func (m *Memory) Close() error {
	var errs []error
	for _, r := range m.regions {
		errs = append(errs, backing{}.unmap(r.Bytes))
	}
	m.regions = nil
	return errors.Join(errs...)
}

// Regions returns the regions in ascending order. The caller must not change the slice.
func (m *Memory) Regions() []Region { return m.regions }

// Size is the total amount of RAM in bytes.
func (m *Memory) Size() uint64 { return m.size }

// Slice returns the n bytes at a guest address, or nil where the region does not
// hold all of them. The slice has no spare capacity and aliases memory that the
// guest may change at any time. The zero Region holds nothing.
func (r Region) Slice(at GPA, n int) []byte {
	// The subtraction wraps for addresses below the base, which then fail the
	// comparison, as does a negative n.
	if off := uint64(at - r.Base); off < uint64(len(r.Bytes)) && uint64(n) <= uint64(len(r.Bytes))-off {
		return r.Bytes[off : off+uint64(n) : off+uint64(n)]
	}
	return nil
}

// Region returns the region that holds a guest address, or the zero Region. Who
// looks up many addresses keeps it and asks it first.
func (m *Memory) Region(at GPA) Region {
	if r, _ := m.find(at); r != nil {
		return *r
	}
	return Region{}
}

// find returns the region that holds at, and the offset of at in it.
func (m *Memory) find(at GPA) (*Region, uint64) {
	for i := range m.regions {
		r := &m.regions[i]
		// The subtraction wraps for addresses below the base, which then fail the comparison.
		if off := uint64(at - r.Base); off < uint64(len(r.Bytes)) {
			return r, off
		}
	}
	return nil, 0
}

func outside(at GPA, n int) error {
	return fmt.Errorf("guestmem: %d bytes at %v: %w", n, at, ErrOutside)
}

// Slice returns the n bytes of RAM at a guest address, which must lie in one
// region. The slice has no spare capacity and aliases memory that the guest may
// change at any time.
func (m *Memory) Slice(at GPA, n int) ([]byte, error) {
	if b := m.Region(at).Slice(at, n); b != nil {
		return b, nil
	}
	return nil, outside(at, n)
}

// Contains reports whether the whole range is RAM within one region.
func (m *Memory) Contains(at GPA, size uint64) bool {
	r, off := m.find(at)
	return r != nil && size <= uint64(len(r.Bytes))-off
}

// Read copies len(p) bytes of RAM at a guest address, across adjacent regions if need be.
func (m *Memory) Read(p []byte, at GPA) error {
	return m.each(len(p), at, func(i int, b []byte) { copy(p[i:], b) })
}

// Write copies p to RAM at a guest address, across adjacent regions if need be.
// On an error nothing was written.
func (m *Memory) Write(p []byte, at GPA) error {
	if err := m.each(len(p), at, func(int, []byte) {}); err != nil {
		return err
	}
	return m.each(len(p), at, func(i int, b []byte) { copy(b, p[i:]) })
}

func (m *Memory) each(n int, at GPA, do func(i int, b []byte)) error {
	for i := 0; i < n; {
		next, carry := bits.Add64(uint64(at), uint64(i), 0)
		r, off := m.find(GPA(next))
		if r == nil || carry != 0 {
			return outside(at, n)
		}
		b := r.Bytes[off:]
		b = b[:min(len(b), n-i)]
		do(i, b)
		i += len(b)
	}
	return nil
}
