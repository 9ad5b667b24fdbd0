package fs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// spot is a name in a folder.
type spot struct {
	parent uint64
	name   []byte
}

func (s *spot) is(parent uint64, name []byte) bool {
	return s.parent == parent && bytes.Equal(s.name, name)
}

func (s *spot) set(parent uint64, name []byte) {
	s.parent = parent
	if !bytes.Equal(s.name, name) {
		if cap(s.name) < len(name) {
			s.name = nil // what grows may take twice what it needs
		}
		s.name = append(s.name[:0], name...)
	}
}

// linkedShare is the part of a table's nodes that may have two names: names are most of
// what a node takes.
const linkedShare = 8

// place remembers where a node was seen. Preconditions: mu.
func (n *node) place(parent uint64, name []byte) {
	n.lost = false
	if n.also != nil && n.also.is(parent, name) {
		n.swap()
		return
	}
	n.at.set(parent, name)
}

func (n *node) swap() { n.at, *n.also = *n.also, n.at }

// dropAlso forgets a node's second name. Preconditions: mu.
func (t *table) dropAlso(n *node) {
	if n.also != nil {
		n.also = nil
		t.linked--
	}
}

// addName remembers one more name of a node, and the one that it had if there is room.
// Folders have one: those above an inode are found again one after the other, and
// two ways to each would be 2^depth. Preconditions: mu.
func (t *table) addName(n *node, parent uint64, name []byte) {
	if n.typ != unix.S_IFDIR && !n.lost && n.also == nil && !n.at.is(parent, name) && t.linked < t.maxNodes/linkedShare {
		n.also = &spot{n.at.parent, bytes.Clone(n.at.name)}
		t.linked++
	}
	n.place(parent, name)
}

// seen says where a node is; what was known of it was wrong.
func (t *table) seen(n *node, parent uint64, name []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !n.fixed {
		n.place(parent, name)
	}
}

// linkedAs says that a node has one more name.
func (t *table) linkedAs(n *node, parent uint64, name []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !n.fixed {
		t.addName(n, parent, name)
	}
}

// renamed says that a node's name has become another.
func (t *table) renamed(n *node, parent uint64, old []byte, parent2 uint64, name []byte) {
	if n == nil || n.fixed {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case n.lost || n.at.is(parent, old):
		n.place(parent2, name)
	case n.also != nil && n.also.is(parent, old):
		n.also.set(parent2, name)
	default:
		t.addName(n, parent2, name)
	}
}

// unlinked says that a node has lost a name, its last one if so. One of which no name
// is remembered cannot be found again, and keeps its descriptor. Programs that make a
// file under one name, link it to its own and remove the first, as git and mail
// servers do, must not get there.
func (t *table) unlinked(n *node, parent uint64, name []byte, last bool) {
	if n == nil || n.fixed {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case last:
		t.dropAlso(n)
		n.lost = true
	case n.also != nil && n.also.is(parent, name):
		t.dropAlso(n)
	case n.at.is(parent, name) && n.also != nil:
		n.swap()
		t.dropAlso(n)
	case n.at.is(parent, name):
		n.lost = true
	}
}

// nameless says that a node never had a name.
func (t *table) nameless(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byID[id]; n != nil && !n.fixed {
		n.lost = true
	}
}
