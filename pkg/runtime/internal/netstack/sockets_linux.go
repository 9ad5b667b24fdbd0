package netstack

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

const (
	// round bounds the datagrams of all flows, the looks for some, and the connections
	// that are served, before the card gets its turn.
	round = 256

	// Events of a socket.
	readable = unix.EPOLLIN
	writable = unix.EPOLLOUT
	urgent   = unix.EPOLLPRI
	hungUp   = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// sockets hears of what happens to the sockets of all flows and connections, on the
// goroutine of the network card's first queue pair: one epoll(7) waits for the guest and
// for the host. So a packet goes either way on one thread, which the Go scheduler has no
// part in, and no flow needs a goroutine. The Go poller would also ask to hear of room to
// write, of which a socket of datagrams tells after each that has left it.
type sockets struct {
	epoll int

	waiting atomic.Bool  // the card's goroutine is in wait
	seen    atomic.Int64 // when it was there last: Unix ns

	mu   sync.Mutex
	open map[int32]*watched // by descriptor; nil when closed

	// Used by the card's goroutine only.
	bell   *virtio.Doorbell // that is waited for beside sockets
	events [64]unix.EpollEvent
	ready  []*watched // with something to do, each once
}

// watched is a socket with its owner.
type watched struct {
	owner  socketOwner
	events uint32 // in sockets.ready, and the card's goroutine's as that is
	queued bool   // likewise
}

func newSocket(family, kind int) (int, error) {
	return unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func acceptSocket(fd int) (int, unix.Sockaddr, error) {
	return unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}

func (s *sockets) start(*Network) (err error) {
	s.open = map[int32]*watched{}
	s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return os.NewSyscallError("epoll_create1", err)
}

// add begins to tell a socket's owner of its events, each of which is told once. It is
// called with the owner's lock. When it fails, the socket is closed.
func (s *sockets) add(fd int, owner socketOwner, events uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		unix.Close(fd)
		return errClosed
	}
	if err := s.watch(fd, events); err != nil {
		unix.Close(fd)
		return err
	}
	s.open[int32(fd)] = &watched{owner: owner}
	return nil
}

// watch has each event of a descriptor told once. A ring of the bell is one, so that
// nobody has to read its count.
func (s *sockets) watch(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl",
		unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}))
}

// remove closes a socket, whether it was added or not. An event of it that is on its way finds no
// owner, or has another's socket looked at in vain.
func (s *sockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, int32(fd))
	unix.Close(fd)
}

func (s *sockets) find(fd int32) *watched {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[fd]
}

// wait serves sockets until the bell is rung, a round at a time, see [vnet.Waiter]. Pay is
// called before each sleep, which ends after ackDelay when it reports more.
func (s *sockets) wait(bell *virtio.Doorbell, block bool, pay func(all bool) (more bool)) bool {
	if s.bell != bell {
		if s.watch(bell.FD(), readable) != nil {
			pay(true)
			return !block || bell.Wait() // the sockets are left to drain
		}
		s.bell = bell
	}
	s.waiting.Store(true)
	defer func() {
		s.seen.Store(time.Now().UnixNano())
		s.waiting.Store(false)
	}()
	for {
		timeout := -1
		if pay(false) {
			timeout = int(ackDelay / time.Millisecond)
		}
		if !block || len(s.ready) > 0 {
			timeout = 0
		}
		n, err := unix.EpollWait(s.epoll, s.events[:], timeout)
		if err != nil && err != unix.EINTR {
			return false
		}
		rang := false
		for i := range max(n, 0) {
			e := &s.events[i]
			if int(e.Fd) == bell.FD() {
				rang = true
			} else if w := s.find(e.Fd); w != nil {
				w.events |= e.Events
				s.queue(w)
			}
		}
		s.serve()
		if rang || !block || len(s.ready) > 0 {
			return true
		}
	}
}

// queue notes that there is something to do for a socket.
func (s *sockets) queue(w *watched) {
	if !w.queued {
		w.queued = true
		s.ready = append(s.ready, w)
	}
}

// serve does one round over the sockets that there is something to do for.
func (s *sockets) serve() {
	i := 0
	for left := round; i < len(s.ready) && left > 0; i++ {
		w := s.ready[i]
		events := w.events
		w.queued, w.events = false, 0
		count, done := w.owner.serve(events)
		if !done {
			w.events = events
			s.queue(w)
		}
		left -= max(count, 1)
	}
	rest := copy(s.ready, s.ready[i:])
	clear(s.ready[rest:])
	s.ready = s.ready[:rest]
}

// drain does what wait would, where nobody waits any more: the guest may have no driver,
// and what comes for it would fill the sockets.
func (s *sockets) drain() {
	if s.waiting.Load() || time.Since(time.Unix(0, s.seen.Load())) < udpSweep/2 {
		return
	}
	s.mu.Lock()
	owners := make([]socketOwner, 0, len(s.open))
	for _, w := range s.open {
		owners = append(owners, w.owner)
	}
	s.mu.Unlock()
	for _, o := range owners {
		for range 16 { // bursts: more than a socket's buffer holds
			if _, done := o.serve(readable); done {
				break
			}
		}
	}
}

// close is for when the flows are gone and the card is at rest.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		s.open = nil
		unix.Close(s.epoll)
		s.epoll = -1
	}
}
