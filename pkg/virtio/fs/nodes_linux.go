package fs

import (
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// key says which inode a node is. The time of birth tells an inode from the next
// one with its number, as a generation would, without a call of its own.
type key struct {
	ino   uint64
	birth int64 // ns; 0 where it means nothing
	mount uint32
}

// node is an inode that the guest has looked up. Fields are guarded by
// table.mu, except where they say otherwise.
type node struct {
	id    uint64 // never changes
	key   key    // never changes
	typ   uint32 // S_IFMT of the host's file; never changes
	fixed bool   // of the share itself: never forgotten; never changes

	at   spot  // where it was seen last
	also *spot // another name, of those that the guest has linked; nil for none
	lost bool  // the guest has taken these names away

	fd      int // O_PATH, or -1 while it is given up
	lookups uint64
	opens   int    // open files, which keep fd
	seen    uint64 // what changes with the contents, when it was opened last

	pins   atomic.Int32 // requests under way; raised with table.mu only
	doomed atomic.Bool  // no longer in the table; set with table.mu only

	prev, next *node // of table.lru, while fd is held
}

type mount struct {
	major, minor uint32
	id           uint64
	noBirth      bool
}

// table holds the nodes of a session.
type table struct {
	srv      *server
	maxNodes int
	maxFDs   int

	mu     sync.Mutex
	byID   map[uint64]*node
	byKey  map[key]*node
	last   uint64 // id; never used again, so a stale one is found out
	lru    node   // sentinel of the nodes with descriptors, least recently used last
	fds    int
	linked int     // nodes with a second name
	mounts []mount // the first is the root's
	free   []*node
}

const (
	freeNodes = 256 // nodes kept for reuse
	evictScan = 256 // nodes looked at to find one to give up
	evictMost = 16  // descriptors given up at once
	maxFinds  = 512 // inodes that one hold may look for: the folders above it, and tries
)

func (t *table) init(s *server, nodes, fds int) {
	t.srv, t.maxNodes, t.maxFDs = s, nodes, fds
	t.byID, t.byKey = map[uint64]*node{}, map[key]*node{}
	t.lru.prev, t.lru.next = &t.lru, &t.lru
	t.last = rootID
}

// keyOf returns the identity of what st describes. Preconditions: mu.
func (t *table) keyOf(st *unix.Statx_t) key {
	k := key{ino: st.Ino}
	id := uint64(0)
	if st.Mask&unix.STATX_MNT_ID != 0 {
		id = st.Mnt_id
	}
	for i := range t.mounts {
		m := &t.mounts[i]
		if m.id == id && m.major == st.Dev_major && m.minor == st.Dev_minor {
			k.mount = uint32(i)
			if !m.noBirth && st.Mask&unix.STATX_BTIME != 0 {
				k.birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
			}
			return k
		}
	}
	t.mounts = append(t.mounts, mount{st.Dev_major, st.Dev_minor, id, len(t.mounts) > 0})
	return t.keyOf(st)
}

// fix adds a node of the share itself, whose descriptor the table takes.
func (t *table) fix(id uint64, fd int, st *unix.Statx_t) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &node{id: id, key: t.keyOf(st), typ: uint32(st.Mode) & unix.S_IFMT, fixed: true, fd: fd}
	t.byID[id] = n
	if fd >= 0 {
		t.byKey[n.key] = n
	}
	t.last = max(t.last, id)
	return n
}

// enter counts one more lookup of what st describes, which was found in a folder
// by name. It does not hold a descriptor.
func (t *table) enter(parent uint64, name []byte, st *unix.Statx_t) (id uint64, submount bool, errno syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.enterLocked(parent, name, st)
	if n == nil {
		return 0, false, syscall.ENFILE
	}
	p := t.byID[parent]
	return n.id, p != nil && p.key.mount != n.key.mount && n.typ == unix.S_IFDIR, 0
}

func (t *table) enterLocked(parent uint64, name []byte, st *unix.Statx_t) *node {
	k := t.keyOf(st)
	n := t.byKey[k]
	typ := uint32(st.Mode) & unix.S_IFMT
	if n != nil && n.typ != typ { // the same number and no time of birth
		return t.add(parent, name, k, typ)
	}
	if n == nil {
		return t.add(parent, name, k, typ)
	}
	if !n.fixed {
		n.lookups++
		n.place(parent, name)
	}
	return n
}

func (t *table) add(parent uint64, name []byte, k key, typ uint32) *node {
	if len(t.byID) >= t.maxNodes {
		return nil
	}
	var n *node
	if last := len(t.free) - 1; last >= 0 {
		n, t.free = t.free[last], t.free[:last]
	} else {
		n = new(node)
	}
	t.last++
	n.id, n.key, n.typ, n.fd, n.lookups, n.opens, n.seen = t.last, k, typ, -1, 1, 0, 0
	n.doomed.Store(false)
	n.place(parent, name)
	t.byID[n.id], t.byKey[k] = n, n
	return n
}

// full reports whether there is no room for another node.
func (t *table) full() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID) >= t.maxNodes
}

// pin returns a node that stays until unpin, or nil.
func (t *table) pin(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n != nil {
		n.pins.Add(1)
	}
	return n
}

// hold returns a node and its descriptor, both of which stay until unpin.
func (t *table) hold(id uint64) (*node, int, syscall.Errno) {
	finds := maxFinds
	return t.holdWithin(id, &finds)
}

// holdWithin takes what it looks for from finds.
func (t *table) holdWithin(id uint64, finds *int) (*node, int, syscall.Errno) {
	t.mu.Lock()
	n := t.byID[id]
	if n == nil {
		t.mu.Unlock()
		return nil, -1, syscall.ESTALE
	}
	n.pins.Add(1)
	fd := n.fd
	if fd >= 0 {
		t.touch(n)
	}
	t.mu.Unlock()
	if fd >= 0 {
		return n, fd, 0
	}
	fd, errno := t.find(n, finds)
	if errno != 0 {
		t.unpin(n)
		return nil, -1, errno
	}
	return n, fd, 0
}

// unpin ends what pin and hold began; nil is nothing.
func (t *table) unpin(n *node) {
	if n == nil {
		return
	}
	if n.pins.Add(-1) != 0 || !n.doomed.Load() {
		return
	}
	t.mu.Lock()
	fd := t.bury(n)
	t.mu.Unlock()
	closeFD(fd)
}

// touch makes a node the most recently used. Preconditions: mu, and fd is held.
func (t *table) touch(n *node) {
	if n.fixed || t.lru.next == n {
		return
	}
	n.unlink()
	t.push(n)
}

func (t *table) push(n *node) {
	n.prev, n.next = &t.lru, t.lru.next
	n.prev.next, n.next.prev = n, n
}

func (n *node) unlink() {
	if n.next != nil {
		n.prev.next, n.next.prev = n.next, n.prev
		n.prev, n.next = nil, nil
	}
}

// find opens a node again by its names, and makes sure that it is the same. The node
// is pinned.
func (t *table) find(n *node, finds *int) (int, syscall.Errno) {
	var buf [nameMax + 1]byte
	second := false // the first name was wrong
	for {
		t.mu.Lock()
		fd, parent, lost := n.fd, n.at.parent, n.lost
		name := cstring(buf[:copy(buf[:nameMax], n.at.name)+1])
		t.mu.Unlock()
		name[len(name)-1] = 0
		switch {
		case fd >= 0: // found by another thread, and pinned
			return fd, 0
		case lost || n.fixed || *finds == 0:
			return -1, syscall.ESTALE
		}
		*finds--
		fd, errno := t.findIn(n, parent, name, finds)
		t.mu.Lock()
		there := n.at.is(parent, name.text())
		if second && errno == 0 && there {
			t.dropAlso(n)
		}
		if !second && errno == syscall.ESTALE && there && n.also != nil {
			n.swap()
			second, there = true, false
		}
		t.mu.Unlock()
		if errno == 0 {
			return t.install(n, fd)
		}
		if there {
			return -1, errno
		}
	}
}

func (t *table) findIn(n *node, parent uint64, name cstring, finds *int) (int, syscall.Errno) {
	p, dir, errno := t.holdWithin(parent, finds)
	if errno != 0 {
		return -1, errno
	}
	defer t.unpin(p)
	fd, errno := t.srv.openPath(dir, name)
	switch errno {
	case 0:
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EXDEV, syscall.ELOOP:
		return -1, syscall.ESTALE
	default:
		return -1, errno
	}
	var st unix.Statx_t
	if errno = statAt(fd, empty, &st); errno == 0 {
		t.mu.Lock()
		if t.keyOf(&st) != n.key || uint32(st.Mode)&unix.S_IFMT != n.typ {
			errno = syscall.ESTALE
		}
		t.mu.Unlock()
	}
	if errno != 0 {
		closeFD(fd)
		return -1, errno
	}
	return fd, 0
}

// install gives a pinned node a descriptor, or keeps the one that it got
// meanwhile, and returns what it has.
func (t *table) install(n *node, fd int) (int, syscall.Errno) {
	var victims [evictMost]int
	t.mu.Lock()
	if n.fd >= 0 {
		have := n.fd
		t.mu.Unlock()
		closeFD(fd)
		return have, 0
	}
	k, ok := 0, true
	if t.fds >= t.maxFDs {
		k = t.evict(&victims)
		ok = t.fds < t.maxFDs
	}
	if ok {
		n.fd = fd
		t.fds++
		t.push(n)
	}
	t.mu.Unlock()
	for _, v := range victims[:k] {
		closeFD(v)
	}
	if !ok {
		closeFD(fd)
		return -1, syscall.ENFILE
	}
	return fd, 0
}

// evict gives up descriptors that were not used lately, and can be found again as
// far as is known. The caller closes them. Preconditions: mu.
func (t *table) evict(victims *[evictMost]int) (k int) {
	n := t.lru.prev
	for range evictScan {
		if n == &t.lru || k == len(victims) {
			break
		}
		before := n.prev
		if n.pins.Load() == 0 && n.opens == 0 && !n.lost {
			n.unlink()
			victims[k], n.fd = n.fd, -1
			k++
			t.fds--
		} else { // so that the next search does not start with it
			n.unlink()
			t.push(n)
		}
		n = before
	}
	t.srv.dev.count.evicted.Add(uint64(k))
	return k
}

// makeRoom gives up descriptors because the process has no more.
func (t *table) makeRoom() bool {
	var victims [evictMost]int
	t.mu.Lock()
	k := t.evict(&victims)
	t.mu.Unlock()
	for _, v := range victims[:k] {
		closeFD(v)
	}
	return k > 0
}

// forget takes lookups back. More than there were are as many as there were.
func (t *table) forget(id, count uint64) {
	t.mu.Lock()
	fd := -1
	if n := t.byID[id]; n != nil && !n.fixed {
		n.lookups -= min(n.lookups, count)
		fd = t.release(n)
	}
	t.mu.Unlock()
	closeFD(fd)
}

// release takes a node that nobody refers to out of the table. It returns a
// descriptor to close, or -1. Preconditions: mu.
func (t *table) release(n *node) int {
	if n.lookups > 0 || n.opens > 0 || n.fixed || n.doomed.Load() {
		return -1
	}
	delete(t.byID, n.id)
	if t.byKey[n.key] == n {
		delete(t.byKey, n.key)
	}
	n.doomed.Store(true)
	return t.bury(n)
}

// bury makes a doomed node that is neither pinned nor open available for reuse. It
// returns a descriptor to close, or -1. Preconditions: mu.
func (t *table) bury(n *node) int {
	if n.pins.Load() != 0 || n.opens > 0 || !n.doomed.Load() || n.id == 0 {
		return -1
	}
	fd := n.fd
	if fd >= 0 {
		n.unlink()
		n.fd = -1
		t.fds--
	}
	n.id = 0 // buried
	t.dropAlso(n)
	if len(t.free) < freeNodes {
		t.free = append(t.free, n)
	}
	return fd
}

// open counts an open file of a held node, and whether its contents are the ones
// that were seen when it was opened last.
func (t *table) open(n *node, version uint64) (same bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.opens++
	same = n.seen == version
	n.seen = version
	return same
}

func (t *table) closed(n *node) {
	t.mu.Lock()
	n.opens--
	fd := t.release(n)
	if fd < 0 { // it may have been forgotten while it was being opened
		fd = t.bury(n)
	}
	t.mu.Unlock()
	closeFD(fd)
}

// clear forgets everything but the share itself, and what is still in use.
func (t *table) clear() {
	t.mu.Lock()
	var fds []int
	for _, n := range t.byID {
		n.lookups = 0
		if fd := t.release(n); fd >= 0 {
			fds = append(fds, fd)
		}
	}
	t.mu.Unlock()
	for _, fd := range fds {
		closeFD(fd)
	}
}

// known returns the id of the node that st describes, or 0.
func (t *table) known(st *unix.Statx_t) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[t.keyOf(st)]; n != nil && n.typ == uint32(st.Mode)&unix.S_IFMT {
		return n.id
	}
	return 0
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
