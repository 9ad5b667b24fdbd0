package netstack

import (
	"os"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
	"golang.org/x/sys/unix"
)

// This is the host's side: a socket that never blocks.

// connect begins to connect to where the guest's destination leads. Preconditions: mu.
func (f *tcpFlow) connect() error {
	family, addr := sockaddr(f.table.where(f.key.dst))
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
	_ = unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // urgent data is data (RFC 6093)
	_ = unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	keepAlive(f.fd)
}

// watch has serve called for the socket. Preconditions: mu.
func (f *tcpFlow) watch() error {
	err := f.table.net.sockets.add(f.fd, f, readable|writable|urgent|hungUp)
	if err != nil {
		f.fd = -1
	}
	return err
}

// serve implements [socketOwner].
func (f *tcpFlow) serve(events uint32) (count int, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == tcpConnecting && events&(writable|hungUp) != 0 {
		switch done, err := f.connected(); {
		case err != nil:
			f.end(err)
			return 1, true
		case !done:
			return 1, true
		}
		f.state = tcpAnswered
		f.expect(openTime)
		f.answer()
	}
	f.more = f.more || events&(readable|urgent|hungUp) != 0
	f.dry = f.dry || events&(urgent|hungUp) != 0
	f.hung = f.hung || events&hungUp != 0
	if f.state == tcpOpen && f.ended && events&(readable|hungUp) != 0 {
		f.breakDown(f.socketError()) // a reset after the end is read of no more
	}
	if f.state == tcpOpen {
		if events&(writable|hungUp) != 0 {
			f.writeHeld()
		}
		count = f.proceed()
		if f.owes == owedSoon && f.state == tcpOpen && !f.listed {
			f.acknowledgeNow()
		}
	}
	return count + 1, true
}

// connected says what came of connect, and is false while that is not known.
// Preconditions: mu.
func (f *tcpFlow) connected() (bool, error) {
	if err := f.socketError(); err != nil {
		return true, os.NewSyscallError("connect", err)
	}
	if _, err := unix.Getpeername(f.fd); err != nil {
		return false, nil // the event was of another kind, or of the descriptor's last owner
	}
	if f.toItself() {
		return true, os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return true, nil
}

// socketError is what the socket has to tell of, if anything. Preconditions: mu.
func (f *tcpFlow) socketError() error {
	no, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && no != 0 {
		err = unix.Errno(no)
	}
	return err
}

// breakDown notes that the socket takes or gives no more, if there is an error. What it has
// given is the guest's, and what it still gives; then the connection ends. Preconditions: mu.
func (f *tcpFlow) breakDown(err error) {
	if err == nil || f.broken != nil {
		return
	}
	if f.gone { // there is nobody left to tell
		f.end(errReset)
		return
	}
	f.broken = err
	f.more = f.more || !f.ended
	f.in.clear(&f.table.memory)
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
// for, until either has no more. It returns how many segments that were. Preconditions: mu.
func (f *tcpFlow) proceed() (sent int) {
	for f.state == tcpOpen && !f.gone {
		got := f.fill()
		sent += f.pump()
		if !got {
			break
		}
	}
	if sent > 0 {
		f.flushCard()
	}
	f.watchWindow()
	f.finish()
	return sent
}

// fill reads what there is and reports whether it was anything. Preconditions: mu.
func (f *tcpFlow) fill() bool {
	if f.ended {
		f.more = false
	}
	if !f.more {
		return false
	}
	m := &f.table.memory
	a, b := f.out.space(m)
	if len(a) == 0 {
		return false // the guest has to take some first
	}
	defer f.out.release(m)
	n, err := readPieces(f.fd, a, b)
	switch {
	case err == unix.EAGAIN:
		f.more = false
		return false
	case err != nil:
		f.breakDown(os.NewSyscallError("read", err))
		f.more = false
		return false
	case n == 0:
		f.more = false
		f.ended = f.broken == nil
		return f.ended
	}
	f.out.added(n)
	f.flow.Received += uint64(n)
	if n < len(a)+len(b) && hungUp != 0 && !f.dry {
		f.more = false // an event tells of what comes next, and the last had no end in it
	}
	return true
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

// write has the socket take n bytes, as many as it does at once, and returns what is left
// of v, which it changes. Preconditions: mu.
func (f *tcpFlow) write(v [][]byte, n int) (took int, rest [][]byte, err error) {
	for took < n {
		k, err := writePieces(f.fd, v)
		if err == unix.EAGAIN {
			break // of which an event tells the end
		} else if err != nil {
			return took, v, os.NewSyscallError("write", err)
		}
		took += k
		f.flow.Sent += uint64(k)
		v = queue.Skip(v, k)
	}
	return took, v, nil
}

// writeHeld has the socket take what waits for room in it. Preconditions: mu.
func (f *tcpFlow) writeHeld() {
	if f.in.n == 0 {
		return
	}
	a, b := f.in.slices(0, f.in.n)
	pieces := [2][]byte{a, b}
	v := pieces[:1]
	if len(b) > 0 {
		v = pieces[:]
	}
	took, _, err := f.write(v, f.in.n)
	if err != nil {
		f.breakDown(err)
		return
	}
	f.in.drop(&f.table.memory, took)
	f.tight = f.tight && f.in.n > 0
	if f.gone && took > 0 {
		f.progress = f.table.now()
	}
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
