package boot

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// minMapped is the least that is mapped: below it, copying is cheaper than the
// memory areas that a mapping splits off.
const minMapped = 64 << 10

// Placed counts the bytes of files that went into the guest.
type Placed struct {
	Mapped uint64 // by MAP_PRIVATE: shared with the page cache until written
	Copied uint64
}

// Add sums up.
func (p *Placed) Add(q Placed) { p.Mapped += q.Mapped; p.Copied += q.Copied }

// Place puts n bytes of a file at a guest address. They are copied, or with share
// mapped where whole pages agree in offset and address; the bytes around stay as
// they are, so that nothing of the file beyond n shows. All of the range must be
// in one region of RAM; if not, nothing is touched.
//
// Mapping saves the memory that guests of one kernel do not write, and the copy.
// Copying leaves RAM in huge pages: a boot from mapped pages takes thousands of
// faults more, which cost several times what the copy does.
func Place(mem *guestmem.Memory, at guestmem.GPA, f *os.File, off int64, n uint64, share bool) (Placed, error) {
	if off < 0 || !mem.Contains(at, n) {
		return Placed{}, fmt.Errorf("boot: place %d bytes of %s at %v: %w", n, f.Name(), at, guestmem.ErrOutside)
	}
	page := uint64(max(guestmem.PageSize, os.Getpagesize()))
	head := -uint64(at) % page // up to the first page boundary
	var body uint64
	if (uint64(off)-uint64(at))%page == 0 && n >= head {
		body = (n - head) &^ (page - 1)
	}
	if !share || body < minMapped {
		head, body = n, 0
	}
	var p Placed
	if body > 0 {
		err := mem.MapFile(at+guestmem.GPA(head), f, off+int64(head), int(body))
		switch {
		case errors.Is(err, syscall.ENODEV): // a file system without mmap
			head, body = n, 0
		case err != nil:
			return p, fmt.Errorf("boot: map %d bytes of %s at %v: %w", body, f.Name(), at, err)
		}
		p.Mapped = body
	}
	for _, part := range [...]struct{ from, n uint64 }{{0, head}, {head + body, n - head - body}} {
		if part.n == 0 {
			continue
		}
		b, err := mem.Slice(at+guestmem.GPA(part.from), int(part.n))
		if err != nil {
			return p, fmt.Errorf("boot: %w", err)
		}
		if _, err := f.ReadAt(b, off+int64(part.from)); err != nil {
			return p, fmt.Errorf("boot: read %d bytes of %s at %d: %w", part.n, f.Name(), off+int64(part.from), err)
		}
		p.Copied += part.n
	}
	return p, nil
}
