package vsock

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// pollList is the poller for any Unix, by poll(2). It does not see that the
// other end is gone while there is interest in neither direction; the next write
// tells.
type pollList struct {
	r, w int // a pipe for wake

	mu    sync.Mutex
	socks []pollEntry // those with an interest

	fds   []unix.PollFd // of the goroutine that waits
	toks  []token
	ready []readiness
}

type pollEntry struct {
	fd int
	token
	in, out bool
}

func newPollList() (*pollList, error) {
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	return &pollList{r: fds[0], w: fds[1]}, nil
}

func (p *pollList) bell() int { return -1 }

var bellByte = [1]byte{1}

func (p *pollList) wake() {
	for {
		// EAGAIN means a pipe full of rings that nobody has collected yet.
		if _, err := unix.Write(p.w, bellByte[:]); err != unix.EINTR {
			return
		}
	}
}

func (p *pollList) add(fd int, t token, in, out bool) error { return p.set(fd, t, in, out) }

func (p *pollList) set(fd int, t token, in, out bool) error {
	p.drop(t)
	if in || out {
		p.mu.Lock()
		p.socks = append(p.socks, pollEntry{fd, t, in, out})
		p.mu.Unlock()
	}
	p.wake()
	return nil
}

func (p *pollList) remove(_ int, t token) {
	p.drop(t)
	p.wake() // the descriptor may be used again for something else
}

func (p *pollList) drop(t token) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.socks {
		if last := len(p.socks) - 1; p.socks[i].token == t {
			p.socks[i] = p.socks[last]
			p.socks = p.socks[:last]
			return
		}
	}
}

func (p *pollList) wait(block bool) ([]readiness, error) {
	p.fds = append(p.fds[:0], unix.PollFd{Fd: int32(p.r), Events: unix.POLLIN})
	p.toks = append(p.toks[:0], token{})
	p.mu.Lock()
	for _, s := range p.socks {
		var e int16
		if s.in {
			e |= unix.POLLIN
		}
		if s.out {
			e |= unix.POLLOUT
		}
		p.fds = append(p.fds, unix.PollFd{Fd: int32(s.fd), Events: e})
		p.toks = append(p.toks, s.token)
	}
	p.mu.Unlock()
	timeout := 0
	if block {
		timeout = -1
	}
	if _, err := unix.Poll(p.fds, timeout); err != nil {
		if err == unix.EINTR {
			return nil, nil
		}
		return nil, os.NewSyscallError("poll", err)
	}
	if p.fds[0].Revents != 0 {
		var b [64]byte
		for {
			if n, err := unix.Read(p.r, b[:]); err != unix.EINTR && n < len(b) {
				break
			}
		}
	}
	p.ready = p.ready[:0]
	for i, f := range p.fds[1:] {
		if f.Revents == 0 || f.Revents&unix.POLLNVAL != 0 { // closed since: its token is stale as well
			continue
		}
		p.ready = append(p.ready, readiness{
			token: p.toks[i+1],
			in:    f.Revents&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0,
			out:   f.Revents&(unix.POLLOUT|unix.POLLHUP|unix.POLLERR) != 0,
			gone:  f.Revents&(unix.POLLHUP|unix.POLLERR) != 0,
		})
	}
	return p.ready, nil
}

func (p *pollList) close() error {
	var errs []error
	for _, fd := range []*int{&p.r, &p.w} {
		if *fd >= 0 {
			errs = append(errs, os.NewSyscallError("close", unix.Close(*fd)))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
