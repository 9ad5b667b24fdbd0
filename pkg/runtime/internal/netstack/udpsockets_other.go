//go:build !linux

package netstack

import (
	"os"
	"sync"
	"syscall"

	"github.com/anthropics/boxlite/pkg/virtio"
	"golang.org/x/sys/unix"
)

// udpSockets hears of what comes to the sockets of all flows: a goroutine for each.
type udpSockets struct {
	mu    sync.Mutex
	files map[int]*os.File // by socket
}

func (s *udpSockets) open() error { return nil }

// wait is [vnet.Waiter]'s.
func (s *udpSockets) wait(bell *virtio.Doorbell) bool { return bell.Wait() }

// drain has nothing to do: each flow has a goroutine that does it.
func (s *udpSockets) drain() {}

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

// add begins to read what comes to a flow's socket.
func (s *udpSockets) add(f *udpFlow, fd int) error {
	file := os.NewFile(uintptr(fd), "udp")
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = map[int]*os.File{}
	}
	s.files[fd] = file
	if !f.table.net.spawn(func() {
		// The descriptor is closed when this returns, and not under it.
		_ = raw.Read(func(uintptr) bool {
			for {
				if drained, over := f.receive(); over {
					return true
				} else if drained {
					return false
				}
			}
		})
	}) {
		return errClosed
	}
	return nil
}

// remove closes a flow's socket.
func (s *udpSockets) remove(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file := s.files[fd]; file != nil {
		delete(s.files, fd)
		file.Close()
	} else {
		unix.Close(fd)
	}
}

// close has nothing left to do: the flows are gone.
func (s *udpSockets) close() {}
