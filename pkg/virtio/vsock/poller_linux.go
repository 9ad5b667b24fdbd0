package vsock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func newPoller() (poller, error) { return newEpoll() }

// epoll is the poller of Linux. Its doorbell is an eventfd watched for edges, so
// that it need never be read: each ring is an edge, also of a counter that is not
// zero.
type epoll struct {
	fd, eventfd int
	events      [64]unix.EpollEvent
	ready       [64]readiness
}

const bellSlot = -1

func newEpoll() (_ *epoll, err error) {
	p := &epoll{fd: -1, eventfd: -1}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if p.eventfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: bellSlot}
	if err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, p.eventfd, &e); err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return p, nil
}

func (p *epoll) bell() int { return p.eventfd }

// one is package-level so that the write does not move it to the heap.
var one = [8]byte{1} // little endian as all of our hosts are; any count will do

func (p *epoll) wake() {
	for {
		// EAGAIN means a counter that is full after 2^64 rings.
		if _, err := unix.Write(p.eventfd, one[:]); err != unix.EINTR {
			return
		}
	}
}

func (p *epoll) add(fd int, t token, in, out bool) error {
	return p.ctl(unix.EPOLL_CTL_ADD, fd, t, in, out)
}

func (p *epoll) set(fd int, t token, in, out bool) error {
	return p.ctl(unix.EPOLL_CTL_MOD, fd, t, in, out)
}

func (p *epoll) ctl(what, fd int, t token, in, out bool) error {
	e := unix.EpollEvent{Fd: t.slot, Pad: t.gen}
	if in {
		e.Events |= unix.EPOLLIN
	} else {
		// EPOLLHUP cannot be masked; as an edge it is told once.
		e.Events |= unix.EPOLLET
	}
	if out {
		e.Events |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, what, fd, &e))
}

func (p *epoll) remove(fd int, _ token) {
	// It cannot fail for a descriptor that was added.
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

func (p *epoll) wait(block bool) ([]readiness, error) {
	timeout := 0
	if block {
		timeout = -1
	}
	n, err := unix.EpollWait(p.fd, p.events[:], timeout)
	if err != nil {
		if err == unix.EINTR {
			return nil, nil
		}
		return nil, os.NewSyscallError("epoll_wait", err)
	}
	ready := p.ready[:0]
	for _, e := range p.events[:n] {
		if e.Fd == bellSlot {
			continue
		}
		ready = append(ready, readiness{
			token: token{e.Fd, e.Pad},
			in:    e.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0,
			out:   e.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0,
			gone:  e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0,
		})
	}
	return ready, nil
}

func (p *epoll) close() error {
	var errs []error
	for _, fd := range []*int{&p.fd, &p.eventfd} {
		if *fd >= 0 {
			errs = append(errs, os.NewSyscallError("close", unix.Close(*fd)))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
