package guestmem

import "fmt"

// Go's sync/atomic has no 16-bit operations and no bare fence, and virtio rings
// need both (virtio 1.3 §2.7.7.1, §2.7.13.1). They live here and nowhere else.

// Cell16 is a naturally aligned little-endian 16-bit word of RAM that a running
// guest also reads and writes: a ring index or flag. The zero value must not be
// used. It stays valid until the Memory is closed.
type Cell16 struct{ p *uint16 }

// Cell16 returns the 16-bit word at a guest address, which must be even.
func (m *Memory) Cell16(at GPA) (Cell16, error) {
	b, err := m.Slice(at, 2)
	if err != nil {
		return Cell16{}, err
	}
	if at%2 != 0 {
		return Cell16{}, fmt.Errorf("guestmem: 16-bit word at odd address %v", at)
	}
	return Cell16{pointer16(b)}, nil
}

// Load reads the word with acquire ordering: what the guest wrote before it
// stored this value is visible afterwards.
func (c Cell16) Load() uint16 { return load16(c.p) }

// Store writes the word with release ordering: the guest that sees this value
// sees all that was written before.
func (c Cell16) Store(v uint16) { store16(c.p, v) }

// LoadUint16 reads the 16-bit word at an even guest address with acquire ordering.
func (m *Memory) LoadUint16(at GPA) (uint16, error) {
	c, err := m.Cell16(at)
	if err != nil {
		return 0, err
	}
	return c.Load(), nil
}

// StoreUint16 writes the 16-bit word at an even guest address with release ordering.
func (m *Memory) StoreUint16(at GPA, v uint16) error {
	c, err := m.Cell16(at)
	if err != nil {
		return err
	}
	c.Store(v)
	return nil
}

// Fence orders all memory accesses before it against all after it, stores
// against later loads included.
func Fence() { fence() }

//go:noescape
func load16(p *uint16) uint16

//go:noescape
func store16(p *uint16, v uint16)

func fence()
