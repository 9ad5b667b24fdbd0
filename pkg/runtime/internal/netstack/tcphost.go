package netstack

import (
	"os"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"golang.org/x/sys/unix"
)

// This is the host's side: a socket that never blocks.

// connect begins to connect to where the guest's destination leads. Preconditions: mu.
func (f *tcpFlow) connect() error {
	to := f.table.where(f.key.dst)
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := newSocket(family, unix.SOCK_STREAM)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	f.fd = fd
	f.setOptions()
	if err := unix.Connect(fd, addr); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		return os.NewSyscallError("connect", err)
	}
	return f.watch()
}

// setOptions has the socket send at once what the guest sent at once, and find out when
// the far end is gone, as Go's net does.
func (f *tcpFlow) setOptions() {
	_ = unix.SetsockoptInt(f.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	keepAlive(f.fd)
}

// watch has serve called for the socket. Preconditions: mu.
func (f *tcpFlow) watch() error {
	if err := f.table.net.sockets.add(f.fd, f, readable|writable|hungUp); err != nil {
		f.fd = -1
		return err
	}
	f.told = true
	return nil
}

// serve implements [socketOwner].
func (f *tcpFlow) serve(events uint32) (count int, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == tcpConnecting && events&(writable|hungUp) != 0 {
		if err := f.connected(); err != nil {
			f.end(err)
			return 1, true
		}
		f.state = tcpAnswered
		f.expect(openTime)
		f.answer()
	}
	f.more = f.more || events&(readable|hungUp) != 0
	f.hup = f.hup || events&hungUp != 0
	if f.state == tcpOpen {
		if events&(writable|hungUp) != 0 {
			f.flush()
		}
		f.proceed()
		if f.owes == owedSoon && f.state == tcpOpen && !f.listed {
			f.acknowledge()
		}
	}
	return 1, true
}

// connected says what came of connect. Preconditions: mu.
func (f *tcpFlow) connected() error {
	no, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && no != 0 {
		err = unix.Errno(no)
	}
	if err == nil && f.toItself() {
		err = unix.ECONNREFUSED
	}
	return os.NewSyscallError("connect", err)
}

// toItself reports that the socket is connected to itself, which happens where nobody
// listens on a port of the host that is given to this very connection.
func (f *tcpFlow) toItself() bool {
	to := f.table.where(f.key.dst)
	if !to.Addr().IsLoopback() {
		return false
	}
	local, err := unix.Getsockname(f.fd)
	return err == nil && addrPort(local) == to
}

// proceed takes from the host what there is room for, and sends what the guest has room
// for, until either has no more. Preconditions: mu.
func (f *tcpFlow) proceed() {
	sent := false
	for f.state == tcpOpen {
		got, err := f.fill()
		if err != nil {
			f.end(err)
			break
		}
		if f.state == tcpOpen && f.pump() {
			sent = true
		}
		if !got {
			break
		}
	}
	if sent {
		f.table.net.link.flush(&f.key)
	}
	f.wait()
	f.finish()
}

// fill reads what there is and reports whether it was anything. Preconditions: mu.
func (f *tcpFlow) fill() (got bool, err error) {
	if !f.more || f.ended {
		return false, nil
	}
	m := &f.table.memory
	a, b := f.out.space(m)
	if len(a) == 0 {
		return false, nil // the guest has to take some first
	}
	defer f.out.release(m)
	n, err := readPieces(f.fd, a, b)
	switch {
	case err == unix.EAGAIN:
		f.more = false
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("read", err)
	case n == 0:
		f.ended, f.more = true, false
		return true, nil
	}
	f.out.added(n)
	f.flow.Received += uint64(n)
	if n < len(a)+len(b) && hungUp != 0 && !f.hup {
		f.more = false // an event tells of what comes next, and the last had no end in it
	}
	return true, nil
}

func readPieces(fd int, a, b []byte) (n int, err error) {
	for {
		if len(b) == 0 {
			n, err = unix.Read(fd, a)
		} else {
			pieces := [2][]byte{a, b}
			n, err = unix.Readv(fd, pieces[:])
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

// write has the socket take n bytes, as many as it does at once. Preconditions: mu.
func (f *tcpFlow) write(v [][]byte, n int) (took int, err error) {
	for took < n {
		k, err := writePieces(f.fd, v)
		if err == unix.EAGAIN {
			break // of which an event tells the end
		} else if err != nil {
			return took, os.NewSyscallError("write", err)
		}
		took += k
		f.flow.Sent += uint64(k)
		if took < n {
			v = queue.Skip(v, k)
		}
	}
	return took, nil
}

func writePieces(fd int, v [][]byte) (n int, err error) {
	for {
		if len(v) == 1 {
			n, err = unix.Write(fd, v[0])
		} else {
			n, err = unix.Writev(fd, v)
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

// flush has the socket take what waits for room in it. Preconditions: mu.
func (f *tcpFlow) flush() {
	if f.in.n == 0 {
		return
	}
	a, b := f.in.slices(0, f.in.n)
	pieces := [2][]byte{a, b}
	v := pieces[:1]
	if len(b) > 0 {
		v = pieces[:]
	}
	took, err := f.write(v, f.in.n)
	if err != nil {
		f.end(err)
		return
	}
	f.in.drop(&f.table.memory, took)
	if f.edge-f.rcv <= f.room()/2 {
		f.owes = owedSoon // the guest may wait for room
	}
	f.shutdown()
}

// shutdown tells the host of the guest's end, once it has all. Preconditions: mu.
func (f *tcpFlow) shutdown() {
	if f.fin && !f.shut && f.in.n == 0 && f.state == tcpOpen {
		f.shut = true
		_ = unix.Shutdown(f.fd, unix.SHUT_WR) // one that is reset already is read from next
	}
}
