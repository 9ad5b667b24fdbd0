package egress

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// A guest decides how many names it resolves. Addresses beyond the limit push out
	// those that were pinned longest ago, which are then denied until they are
	// resolved again.
	maxPinned = 8192  // addresses
	maxPins   = 16384 // names of them, some 5 MB when all are as long as can be

	// minPin is how long a pin holds at least: programs keep addresses for longer
	// than their TTL. maxPin bounds what a server may ask for.
	minPin = 5 * time.Minute
	maxPin = 24 * time.Hour
)

// pins are the addresses that the box was given, and the names for which.
type pins struct {
	byAddr map[netip.Addr]*pinned
	count  int    // of names
	oldest pinned // head of the ring of those that nobody holds, oldest next
}

// pinned is an address. Its names are one per signature, the latest of each.
type pinned struct {
	addr       netip.Addr
	names      []pin
	holds      int
	prev, next *pinned
}

type pin struct {
	class    signature
	name     string
	until    time.Time
	answered bool // Options.Ask allowed the name, with all flows to it
}

func newPins() pins { return pins{byAddr: make(map[netip.Addr]*pinned)} }

// live tells whether any of the address's names still counts. A name that is denied
// somewhere counts as long as another does: it must not lose its denial first.
func (e *pinned) live(now time.Time) bool {
	return e != nil && (e.holds > 0 || slices.ContainsFunc(e.names, func(n pin) bool { return now.Before(n.until) }))
}

// counts tells whether one of the names of a live address counts.
func (e *pinned) counts(n *pin, now time.Time) bool {
	return n.class.deny || e.allows(n, now)
}

// allows tells whether what allows one of the names counts.
func (e *pinned) allows(n *pin, now time.Time) bool {
	return e.holds > 0 || now.Before(n.until)
}

func (t *pins) add(a netip.Addr, to pin, now time.Time) {
	e := t.byAddr[a]
	if e == nil {
		if !t.room(nil) {
			return // all are held: the new one stays denied
		}
		e = &pinned{addr: a}
		t.byAddr[a] = e
	} else if e.holds == 0 {
		e.unlink()
		if !e.live(now) {
			t.count -= len(e.names)
			e.names = nil
		}
	}
	if e.holds == 0 {
		t.link(e)
	}
	for i := range e.names {
		if n := &e.names[i]; n.class == to.class {
			if n.name != to.name {
				n.name = strings.Clone(to.name)
			}
			if to.until.After(n.until) {
				n.until = to.until
			}
			n.answered = to.answered // the same for all names of a class
			return
		}
	}
	to.name = strings.Clone(to.name)
	e.names = append(e.names, to)
	t.count++
	t.room(e)
}

// room removes addresses, the oldest first, until there may be one more, keeping one.
func (t *pins) room(keep *pinned) bool {
	for len(t.byAddr) > maxPinned || keep == nil && len(t.byAddr) == maxPinned || t.count > maxPins {
		e := t.oldest.next
		if e == nil || e == &t.oldest || e == keep {
			return false
		}
		e.unlink()
		delete(t.byAddr, e.addr)
		t.count -= len(e.names)
	}
	return true
}

func (t *pins) link(e *pinned) {
	head := &t.oldest
	if head.next == nil {
		head.next, head.prev = head, head
	}
	e.prev, e.next = head.prev, head
	head.prev.next, head.prev = e, e
}

func (e *pinned) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

// Pin notes that the box was given addresses for a name, which it may use for ttl.
// The pins hold for at least 5 minutes, and while a flow holds them. Names that the
// policy does not let the box resolve are ignored.
func (p *Policy) Pin(name string, addrs []netip.Addr, ttl time.Duration) {
	if len(addrs) == 0 {
		return
	}
	v := p.lookup(name)
	if !v.Allow {
		return
	}
	now := p.opts.Now()
	until := now.Add(min(max(ttl, minPin), maxPin))
	canonical, _ := canonicalName(name) // empty for what is none
	p.mu.Lock()
	defer p.mu.Unlock()
	class, _ := p.match.sign(name)
	for _, a := range addrs {
		if a.IsValid() {
			p.pins.add(a.Unmap().WithZone(""), pin{class, canonical, until, v.Reason == ByAnswer}, now)
		}
	}
}

// Hold keeps the names of an address while a flow to it is open. The function that
// it returns ends that; it may be called more than once.
func (p *Policy) Hold(a netip.Addr) (release func()) {
	a = a.Unmap().WithZone("")
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.pins.byAddr[a]
	if !e.live(p.opts.Now()) {
		return func() {}
	}
	if e.holds == 0 {
		e.unlink()
	}
	e.holds++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		held := e
		if e = nil; held == nil {
			return
		}
		if held.holds--; held.holds > 0 {
			return
		}
		until := p.opts.Now().Add(minPin)
		for i := range held.names {
			if n := &held.names[i]; until.After(n.until) {
				n.until = until
			}
		}
		p.pins.link(held)
	}
}
