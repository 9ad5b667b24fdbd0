package netstack

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	maxPieced  = 16    // echo requests in pieces at a time; the oldest makes room
	maxMessage = 65535 // bytes of one
)

// pieceKey names a packet that comes in fragments.
type pieceKey struct {
	dst netip.Addr
	id  uint32
}

// pieces joins echo requests that are larger than the link's MTU. The stack must not
// do it: it would answer them itself, for whomever they are. Fragments come in order,
// as the guest's kernel sends them over a link that changes none.
type pieces struct {
	mu    sync.Mutex
	open  map[pieceKey][]byte
	order []pieceKey // oldest first
}

// add takes the part of a message that begins at byte off. It returns the message
// when that was the last one.
func (p *pieces) add(key pieceKey, off int, more bool, part []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, known := p.open[key]
	if off != len(m) && off != 0 || off+len(part) > maxMessage {
		p.drop(key)
		return nil
	}
	m = append(m[:off], part...)
	if !more {
		p.drop(key)
		return m
	}
	if !known {
		if len(p.order) >= maxPieced {
			p.drop(p.order[0])
		}
		if p.open == nil {
			p.open = make(map[pieceKey][]byte)
		}
		p.order = append(p.order, key)
	}
	p.open[key] = m
	return nil
}

func (p *pieces) drop(key pieceKey) {
	delete(p.open, key)
	for i, k := range p.order {
		if k == key {
			p.order = append(p.order[:i], p.order[i+1:]...)
			return
		}
	}
}

// fragmentOnly tells a packet of IPv6 whose one extension header makes it a fragment;
// at is where what it carries begins.
func fragmentOnly(h header.IPv6, at int) bool {
	return h.NextHeader() == header.IPv6FragmentHeader && at == header.IPv6MinimumSize+header.IPv6FragmentHeaderSize
}
