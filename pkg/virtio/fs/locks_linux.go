package fs

import (
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const (
	maxWaiters = 128 // requests that wait for a lock at once; more get ENOLCK
	// The host's kernel can only be asked; unlocks by this guest are known at once.
	shortestWait = time.Millisecond
	longestWait  = 50 * time.Millisecond
)

// locks are the shared locks of a session. A flock(2) lock is one on the guest's
// open file; a POSIX lock belongs to a process of the guest, so each of those has
// an open file of its own per inode, with an open file description lock.
type locks struct {
	srv  *server
	held atomic.Int32 // len(files), to be read without mu

	mu      sync.Mutex
	files   map[lockOwner]int
	waiters map[*waiter]struct{}
	changed chan struct{} // closed when something was unlocked
	quit    chan struct{} // closed by stop
	running sync.WaitGroup
}

type lockOwner struct{ node, owner uint64 }

// waiter is a request for a lock that somebody else has.
type waiter struct {
	unique uint64
	cancel chan struct{} // closed to give up; guarded by locks.mu until then
	gone   bool
}

// lockRequest is struct fuse_lk_in, checked.
type lockRequest struct {
	fh, owner  uint64
	start, end uint64
	typ        uint32
	flock      bool
}

func (l *locks) init(s *server) {
	l.srv = s
	l.files, l.waiters = map[lockOwner]int{}, map[*waiter]struct{}{}
	l.changed, l.quit = make(chan struct{}), make(chan struct{})
}

func (l *locks) start() { l.quit = make(chan struct{}) }

func (l *locks) stop() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.running.Wait()
}

// clear drops all locks and ends all waits.
func (l *locks) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.waiters {
		w.giveUp()
	}
	for o, fd := range l.files {
		closeFD(fd)
		delete(l.files, o)
	}
	l.held.Store(0)
}

// giveUp ends a wait. Preconditions: locks.mu.
func (w *waiter) giveUp() {
	if !w.gone {
		w.gone = true
		close(w.cancel)
	}
}

// interrupt ends the wait of a request. The guest is to ask again (EAGAIN) about one
// that does not wait: it may be on its way, in another queue.
func (l *locks) interrupt(unique uint64) syscall.Errno {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.waiters {
		if w.unique == unique {
			w.giveUp()
			return 0
		}
	}
	return syscall.EAGAIN
}

// wake lets waiters try again.
func (l *locks) wake() {
	if !l.srv.cfg.SharedLocks {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiters) > 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// release drops the POSIX locks of a process on an inode.
func (l *locks) release(node, owner uint64) {
	if l.held.Load() == 0 {
		return
	}
	l.mu.Lock()
	o := lockOwner{node, owner}
	if fd, ok := l.files[o]; ok {
		closeFD(fd)
		delete(l.files, o)
		l.held.Store(int32(len(l.files)))
	}
	l.mu.Unlock()
	l.wake()
}

// try takes or gives a lock without waiting.
func (l *locks) try(h *handle, r *lockRequest) syscall.Errno {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.flock {
		how := map[uint32]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[r.typ]
		return errnoOf(unix.Flock(h.fd, how|unix.LOCK_NB))
	}
	o := lockOwner{h.node.id, r.owner}
	fd, ok := l.files[o]
	if !ok {
		if r.typ == unix.F_UNLCK {
			return 0
		}
		var errno syscall.Errno
		if fd, errno = l.open(h); errno != 0 {
			return errno
		}
		l.files[o] = fd
		l.held.Store(int32(len(l.files)))
	}
	k := r.flockT()
	return ofdLock(fd, unix.F_OFD_SETLK, &k)
}

// open makes an open file for another owner. Preconditions: mu.
func (l *locks) open(h *handle) (int, syscall.Errno) {
	s := l.srv
	if len(l.files) >= s.handles.most/2 {
		return -1, syscall.ENOLCK
	}
	flags := unix.O_RDWR
	if s.cfg.ReadOnly {
		flags = unix.O_RDONLY
	}
	fd, errno := s.reopen(h.node, h.fd, flags)
	if errno == syscall.EACCES && flags == unix.O_RDWR {
		fd, errno = s.reopen(h.node, h.fd, unix.O_RDONLY)
	}
	return fd, errno
}

func (r *lockRequest) flockT() unix.Flock_t {
	k := unix.Flock_t{Type: int16(r.typ), Start: int64(r.start)}
	if r.end < math.MaxInt64 {
		k.Len = int64(r.end - r.start + 1)
	}
	return k
}

// lockArgs reads a request and holds its file.
func (w *worker) lockArgs(a *args) (*handle, lockRequest, syscall.Errno) {
	r := lockRequest{fh: a.u64(), owner: a.u64(), start: a.u64(), end: a.u64(), typ: a.u32()}
	_ = a.u32()
	r.flock = a.u32()&lockFlock != 0
	switch {
	case !w.srv.cfg.SharedLocks:
		return nil, r, syscall.ENOSYS
	case a.short, r.typ != unix.F_RDLCK && r.typ != unix.F_WRLCK && r.typ != unix.F_UNLCK,
		!r.flock && (r.start > r.end || r.start > math.MaxInt64):
		return nil, r, syscall.EINVAL
	}
	h, errno := w.srv.handles.hold(r.fh, w.h.node())
	if errno == 0 && (h.fd < 0 || h.dir && !r.flock) {
		w.srv.handles.drop(h)
		return nil, r, syscall.EBADF
	}
	return h, r, errno
}

func (w *worker) setlk(a *args) ([]byte, syscall.Errno) {
	h, r, errno := w.lockArgs(a)
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(h)
	errno = w.srv.locks.try(h, &r)
	if errno == 0 && r.typ != unix.F_WRLCK {
		w.srv.locks.wake()
	}
	return nil, errno
}

func (w *worker) getlk(a *args) ([]byte, syscall.Errno) {
	h, r, errno := w.lockArgs(a)
	if errno != 0 {
		return nil, errno
	}
	s := w.srv
	defer s.handles.drop(h)
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	fd, ok := s.locks.files[lockOwner{h.node.id, r.owner}]
	if !ok {
		if fd, errno = s.locks.open(h); errno != 0 {
			return nil, errno
		}
		defer closeFD(fd)
	}
	w.lock = r.flockT()
	if errno := ofdLock(fd, unix.F_OFD_GETLK, &w.lock); errno != 0 {
		return nil, errno
	}
	out := w.out[:24]
	clear(out)
	le.PutUint64(out[0:], uint64(w.lock.Start))
	end := uint64(math.MaxInt64)
	if w.lock.Len > 0 {
		end = uint64(w.lock.Start + w.lock.Len - 1)
	}
	le.PutUint64(out[8:], end)
	le.PutUint32(out[16:], uint32(w.lock.Type))
	return out, 0 // of whom is the host's business
}

// setlkw is setlk that waits, on a goroutine of its own: then it returns true.
func (w *worker) setlkw(c *queue.Chain) (errno syscall.Errno, waits bool) {
	h, r, errno := w.lockArgs(w.body(c))
	if errno != 0 {
		return errno, false
	}
	l := &w.srv.locks
	errno = l.try(h, &r)
	if errno != syscall.EAGAIN {
		w.srv.handles.drop(h)
		if r.typ != unix.F_WRLCK {
			l.wake()
		}
		return errno, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiters) >= maxWaiters {
		w.srv.handles.drop(h)
		return syscall.ENOLCK, false
	}
	wt := &waiter{unique: w.h.unique(), cancel: make(chan struct{})}
	l.waiters[wt] = struct{}{}
	l.running.Add(1)
	out := append([][]byte(nil), c.Writable...) // the chain is used for the next request
	go l.wait(w, wt, h, r, c.Head, out)
	return 0, true
}

// wait asks for a lock until it gets it.
func (l *locks) wait(w *worker, wt *waiter, h *handle, r lockRequest, head uint16, out [][]byte) {
	defer l.running.Done()
	errno := syscall.EAGAIN
	for pause := shortestWait; errno == syscall.EAGAIN; pause = min(2*pause, longestWait) {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if errno = l.try(h, &r); errno != syscall.EAGAIN {
			break
		}
		select {
		case <-l.quit:
			errno = syscall.EINTR
		case <-wt.cancel:
			errno = syscall.EINTR
		case <-changed:
			pause = shortestWait
		case <-time.After(pause):
		}
	}
	l.mu.Lock()
	delete(l.waiters, wt)
	l.mu.Unlock()
	l.srv.handles.drop(h)
	w.answerLate(head, putReply(out, wt.unique, errno, nil))
}
