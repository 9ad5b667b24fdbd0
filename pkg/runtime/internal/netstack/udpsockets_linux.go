package netstack

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// udpSockets hears of what comes to the sockets of all flows, by an epoll(7) of its
// own: the Go poller asks to hear of room to write too, which a socket tells of after
// each datagram that has left it, and each time a thread wakes for nothing. It spares
// each flow a goroutine, too.
type udpSockets struct {
	table *udpTable

	mu     sync.Mutex
	epoll  *os.File // nil before the first flow
	fd     int      // of epoll
	closed bool
	flows  map[int32]*udpFlow // by socket
}

func socketUDP(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// add begins to read what comes to a flow's socket.
func (s *udpSockets) add(f *udpFlow, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(); err != nil {
		return err
	}
	if err := unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	s.flows[int32(fd)] = f
	return nil
}

// start makes the epoll and the goroutine that waits for it, once. Preconditions: mu.
func (s *udpSockets) start() error {
	if s.closed {
		return errClosed
	} else if s.epoll != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the Go poller to wait for it
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	epoll := os.NewFile(uintptr(fd), "epoll")
	raw, err := epoll.SyscallConn()
	if err == nil && !s.table.net.spawn(func() { s.run(raw) }) {
		err = errClosed
	}
	if err != nil {
		epoll.Close()
		return err
	}
	s.epoll, s.fd, s.flows = epoll, fd, map[int32]*udpFlow{}
	return nil
}

// remove closes a flow's socket. An event of it that is on its way finds no flow, or
// has another's socket looked at in vain.
func (s *udpSockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flows, int32(fd))
	unix.Close(fd)
}

// run serves the flows that have something until close.
func (s *udpSockets) run(raw syscall.RawConn) {
	var events [64]unix.EpollEvent
	n := 0
	wait := func(fd uintptr) bool {
		n, _ = unix.EpollWait(int(fd), events[:], 0)
		return n > 0
	}
	for raw.Read(wait) == nil {
		for _, e := range events[:n] {
			if f := s.flow(e.Fd); f != nil {
				f.receive() // what is left is told of again
			}
		}
	}
}

func (s *udpSockets) flow(fd int32) *udpFlow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows[fd]
}

// close ends run. The flows are gone.
func (s *udpSockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.epoll != nil {
		s.epoll.Close()
	}
}
