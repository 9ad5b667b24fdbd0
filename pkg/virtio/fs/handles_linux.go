package fs

import (
	"sync"
	"sync/atomic"
	"syscall"
)

// handle is an open file or folder of the guest.
type handle struct {
	fd     int // -1: the folder around a single file
	node   *node
	dir    bool
	write  bool // open for writing
	append bool
	sync   bool // O_SYNC or O_DSYNC

	refs atomic.Int32 // requests under way, and the table

	mu  sync.Mutex
	pos int64 // guarded by mu: where the next entries of a folder come from
}

// handles are the open files of a session.
type handles struct {
	srv  *server
	most int

	mu   sync.RWMutex
	byID map[uint64]*handle
	last uint64
}

// add takes over h, whose node is held by the caller and stays.
func (t *handles) add(h *handle) (uint64, syscall.Errno) {
	h.refs.Store(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) >= t.most {
		return 0, syscall.ENFILE
	}
	t.last++
	t.byID[t.last] = h
	return t.last, 0
}

// full reports whether there is no room for another.
func (t *handles) full() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID) >= t.most
}

// hold returns the open file, of a certain node, that stays until drop.
func (t *handles) hold(id, node uint64) (*handle, syscall.Errno) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	h := t.byID[id]
	if h == nil || h.node.id != node {
		return nil, syscall.EBADF
	}
	h.refs.Add(1)
	return h, 0
}

// drop ends what hold and add began. The last one closes the file.
func (t *handles) drop(h *handle) {
	if h.refs.Add(-1) == 0 {
		closeFD(h.fd)
		t.srv.nodes.closed(h.node)
	}
}

func (t *handles) remove(id, node uint64) (*handle, syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[id]
	if h == nil || h.node.id != node {
		return nil, syscall.EBADF
	}
	delete(t.byID, id)
	return h, 0
}

func (t *handles) clear() {
	t.mu.Lock()
	all := t.byID
	t.byID = map[uint64]*handle{}
	t.mu.Unlock()
	for _, h := range all {
		t.drop(h)
	}
}
