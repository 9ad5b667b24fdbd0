package netstack

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

// round bounds the datagrams of all flows, and the looks for some, before the card gets
// its turn.
const round = 256

// udpSockets hears of what comes to the sockets of all flows, on the goroutine of the
// network card's first queue pair: one epoll(7) waits for the guest and for the host.
// So a datagram goes either way on one thread, which the Go scheduler has no part in,
// and no flow needs a goroutine. The Go poller would also ask to hear of room to write,
// of which a socket tells after each datagram that has left it.
type udpSockets struct {
	epoll int

	waiting atomic.Bool  // the card's goroutine is in wait
	seen    atomic.Int64 // when it was there last: Unix ns

	mu    sync.Mutex
	flows map[int32]*udpFlow // by socket

	// Used by the card's goroutine only.
	bell   *virtio.Doorbell // that is waited for beside sockets
	events [64]unix.EpollEvent
	ready  []*udpFlow // with something to read, each once
}

func socketUDP(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func (s *udpSockets) open() (err error) {
	s.flows = map[int32]*udpFlow{}
	s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return os.NewSyscallError("epoll_create1", err)
}

// add begins to read what comes to a flow's socket. It is called with the flow's lock.
func (s *udpSockets) add(f *udpFlow, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows == nil {
		return errClosed
	}
	if err := s.watch(fd); err != nil {
		return err
	}
	s.flows[int32(fd)] = f
	return nil
}

// watch has each event of a descriptor told once. A ring of the bell is one, so that
// nobody has to read its count.
func (s *udpSockets) watch(fd int) error {
	return os.NewSyscallError("epoll_ctl",
		unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}))
}

// remove closes a flow's socket. An event of it that is on its way finds no flow, or
// has another's socket looked at in vain.
func (s *udpSockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, int32(fd))
	unix.Close(fd)
}

func (s *udpSockets) flow(fd int32) *udpFlow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows[fd]
}

// wait serves sockets until the bell is rung, a round at a time, see [vnet.Waiter].
func (s *udpSockets) wait(bell *virtio.Doorbell, block bool) bool {
	if s.bell != bell {
		if s.watch(bell.FD()) != nil {
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
		timeout := 0
		if block && len(s.ready) == 0 {
			timeout = -1
		}
		n, err := unix.EpollWait(s.epoll, s.events[:], timeout)
		if err != nil && err != unix.EINTR {
			return false
		}
		rang := false
		for _, e := range s.events[:max(n, 0)] {
			if int(e.Fd) == bell.FD() {
				rang = true
			} else if f := s.flow(e.Fd); f != nil {
				s.queue(f)
			}
		}
		s.serve()
		if rang || !block || len(s.ready) > 0 {
			return true
		}
	}
}

// queue notes that a flow has something to read.
func (s *udpSockets) queue(f *udpFlow) {
	if !f.queued {
		f.queued = true
		s.ready = append(s.ready, f)
	}
}

// serve does one round over the flows that have something to read.
func (s *udpSockets) serve() {
	i := 0
	for left := round; i < len(s.ready) && left > 0; i++ {
		f := s.ready[i]
		f.queued = false
		count, drained := f.receive()
		if !drained {
			s.queue(f)
		}
		left -= max(count, 1)
	}
	rest := copy(s.ready, s.ready[i:])
	clear(s.ready[rest:])
	s.ready = s.ready[:rest]
}

// drain does what wait would, where nobody waits any more: the guest may have no driver,
// and what comes for it would fill the sockets.
func (s *udpSockets) drain() {
	if s.waiting.Load() || time.Since(time.Unix(0, s.seen.Load())) < udpSweep/2 {
		return
	}
	s.mu.Lock()
	flows := make([]*udpFlow, 0, len(s.flows))
	for _, f := range s.flows {
		flows = append(flows, f)
	}
	s.mu.Unlock()
	for _, f := range flows {
		for range 16 { // bursts: more than a socket's buffer holds
			if _, drained := f.receive(); drained {
				break
			}
		}
	}
}

// close is for when the flows are gone and the card is at rest.
func (s *udpSockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows != nil {
		s.flows = nil
		unix.Close(s.epoll)
		s.epoll = -1
	}
}
