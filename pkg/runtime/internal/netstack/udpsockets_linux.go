package netstack

import (
	"os"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

// udpSockets hears of what comes to the sockets of all flows, on the goroutine of the
// network card's first queue pair: one epoll(7) waits for the guest and for the host.
// So a datagram goes either way on one thread, which the Go scheduler has no part in,
// and no flow needs a goroutine. The Go poller would also ask to hear of room to write,
// of which a socket tells after each datagram that has left it.
type udpSockets struct {
	epoll int

	waiting atomic.Bool // the card's goroutine is in wait

	mu    sync.Mutex
	flows map[int32]*udpFlow // by socket

	// Used by the card's goroutine only.
	bell   int // the descriptor that is waited for beside sockets
	events [64]unix.EpollEvent
	more   []*udpFlow // with more than their burst
}

func socketUDP(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func (s *udpSockets) open() (err error) {
	s.bell, s.flows = -1, map[int32]*udpFlow{}
	s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return os.NewSyscallError("epoll_create1", err)
}

// add begins to read what comes to a flow's socket.
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

// wait serves sockets until the bell is rung, see [vnet.Waiter].
func (s *udpSockets) wait(bell *virtio.Doorbell) bool {
	s.waiting.Store(true)
	defer s.waiting.Store(false)
	if s.bell != bell.FD() {
		if s.watch(bell.FD()) != nil {
			return bell.Wait() // and the sockets have to be drained by the sweep
		}
		s.bell = bell.FD()
	}
	for {
		timeout := -1
		if len(s.more) > 0 {
			timeout = 0
		}
		n, err := unix.EpollWait(s.epoll, s.events[:], timeout)
		if err != nil && err != unix.EINTR {
			return false
		}
		again := len(s.more)
		for _, f := range s.more[:again] {
			s.serve(f)
		}
		s.more = append(s.more[:0], s.more[again:]...)
		rang := false
		for _, e := range s.events[:max(n, 0)] {
			if int(e.Fd) == s.bell {
				rang = true
			} else if f := s.flow(e.Fd); f != nil {
				s.serve(f)
			}
		}
		if rang {
			return true
		}
	}
}

func (s *udpSockets) serve(f *udpFlow) {
	if drained, _ := f.receive(); !drained {
		s.more = append(s.more, f)
	}
}

// drain does what wait would, where nobody waits: the guest may have no driver, and
// what comes for it would fill the sockets.
func (s *udpSockets) drain() {
	if s.waiting.Load() {
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
			if drained, _ := f.receive(); drained {
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
	}
}
