//go:build !linux

package netstack

import (
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

// udpSockets hears of what comes to the sockets of all flows: a goroutine for each.
type udpSockets struct {
	mu    sync.Mutex
	files map[int]*os.File // by socket
}

func socketUDP(family int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *udpSockets) open() error {
	s.files = map[int]*os.File{}
	return nil
}

// add begins to read what comes to a flow's socket. It is called with the flow's lock.
func (s *udpSockets) add(f *udpFlow, fd int) error {
	file := os.NewFile(uintptr(fd), "udp")
	raw, err := file.SyscallConn()
	if err == nil {
		s.mu.Lock()
		s.files[fd] = file
		s.mu.Unlock()
		if f.table.net.spawn(func() {
			_ = raw.Read(func(uintptr) bool {
				for {
					if _, drained := f.receive(); drained {
						return false // until there is something, or it is removed
					}
				}
			})
			file.Close()
		}) {
			return nil
		}
		s.mu.Lock()
		delete(s.files, fd)
		s.mu.Unlock()
		err = errClosed
	}
	file.Close()
	f.fd = -1
	return err
}

// remove has the goroutine of a flow's socket close it. It may be called on that one.
func (s *udpSockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file := s.files[fd]; file != nil {
		delete(s.files, fd)
		file.SetReadDeadline(time.Unix(1, 0))
	} else {
		unix.Close(fd)
	}
}

// wait is [vnet.Waiter]'s.
func (s *udpSockets) wait(bell *virtio.Doorbell, block bool) bool { return !block || bell.Wait() }

// drain has nothing to do: each flow has a goroutine that does it.
func (s *udpSockets) drain() {}

// close has nothing left to do: the flows are gone.
func (s *udpSockets) close() {}
