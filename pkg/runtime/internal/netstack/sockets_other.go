//go:build !linux

package netstack

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

// Events of a socket. That the far end has ended is no event of its own: it is found by
// reading all that there is.
const (
	readable = 1
	writable = 2
	urgent   = 0
	hungUp   = 0
)

// sockets hears of what happens to the sockets of all flows and connections: a goroutine
// for each, and one more where it waits for room.
type sockets struct {
	net *Network

	mu   sync.Mutex
	open map[int]*os.File // by descriptor
}

func newSocket(family, kind int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return -1, err
	}
	return own(fd)
}

func acceptSocket(fd int) (int, unix.Sockaddr, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	conn, from, err := unix.Accept(fd)
	if err != nil {
		return -1, nil, err
	}
	conn, err = own(conn)
	return conn, from, err
}

// own makes a descriptor one that no other program gets and that never blocks.
func own(fd int) (int, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *sockets) start(n *Network) error {
	s.net, s.open = n, map[int]*os.File{}
	return nil
}

// add begins to tell a socket's owner of its events. It is called with the owner's lock.
// When it fails, the socket is closed.
func (s *sockets) add(fd int, owner socketOwner, events uint32) error {
	file := os.NewFile(uintptr(fd), "socket")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return err
	}
	s.mu.Lock()
	s.open[fd] = file
	s.mu.Unlock()
	var users atomic.Int32
	release := func() {
		if users.Add(-1) == 0 {
			file.Close()
		}
	}
	users.Store(2)
	if !s.net.spawn(func() {
		defer release()
		_ = raw.Read(func(uintptr) bool {
			for {
				if _, done := owner.serve(readable); done {
					return false // until there is something, or it is removed
				}
			}
		})
	}) {
		release()
		err = errClosed
	}
	if err != nil || events&writable == 0 || !s.net.spawn(func() {
		defer release()
		_ = raw.Write(func(uintptr) bool {
			owner.serve(writable)
			return false // until there is room again, or it is removed
		})
	}) {
		release()
	}
	if err != nil {
		s.mu.Lock()
		delete(s.open, fd)
		s.mu.Unlock()
	}
	return err
}

// remove has the goroutines of a socket close it. It may be called on one of them.
func (s *sockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file := s.open[fd]; file != nil {
		delete(s.open, fd)
		file.SetDeadline(time.Unix(1, 0))
	} else {
		unix.Close(fd)
	}
}

// wait is [vnet.Waiter]'s.
func (s *sockets) wait(bell *virtio.Doorbell, block bool, pay func(all bool) (more bool)) bool {
	pay(true)
	return !block || bell.Wait()
}

// drain has nothing to do: each socket has a goroutine that does it.
func (s *sockets) drain() {}

// close has nothing left to do: the flows are gone.
func (s *sockets) close() {}
