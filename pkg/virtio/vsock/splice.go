package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// errSpliced is what Read and Write of a spliced connection return.
var errSpliced = errors.New("connection is spliced to a socket")

// spliced is the host socket of a connection. All of it is guarded by Device.mu.
type spliced struct {
	fd             int // nonblocking; -1 when over
	tok            token
	watchIn, outOn bool // what the poller watches for
	readable       bool // it may have bytes for the guest
	readDone       bool // the guest gets no more of them
	writeDone      bool // the socket gets no more of the guest's
	err            error
	done           chan struct{} // closed at the end
}

// Attach connects a port of the guest with a host socket: Dial, then
// [Conn.Splice]. When ctx ends first, the connection is reset.
func (d *Device) Attach(ctx context.Context, port uint32, sock syscall.Conn) error {
	c, err := d.Dial(ctx, port)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.Abort)
	err = c.Splice(sock)
	if !stop() && ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

// Splice ties the connection to a stream socket of the host, a [*net.UnixConn]
// say, and returns when both are done. Until then bytes go directly between the
// socket and guest RAM. The end of one direction is passed on as such, so that
// each side can finish what it has to say; when one side goes away altogether,
// the other one hears of it at once.
//
// The connection and a duplicate of the socket's descriptor belong to the device
// from the call on, and are closed when it returns. sock itself remains the
// caller's, who closes it and does not use it meanwhile. The error is nil after an
// orderly end, else ECONNRESET from either side, or net.ErrClosed after Close or
// Abort.
func (c *Conn) Splice(sock syscall.Conn) error {
	s, err := c.splice(sock)
	if err != nil {
		c.Abort()
		return fmt.Errorf("vsock: splice port %d of the guest: %w", c.guestPort, err)
	}
	<-s.done
	if s.err != nil {
		return c.opError("splice", s.err)
	}
	return nil
}

func (c *Conn) splice(sock syscall.Conn) (*spliced, error) {
	fd, err := dupStream(sock)
	if err != nil {
		return nil, err
	}
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.closed:
		err = net.ErrClosed
	case c.sock != nil:
		err = errSpliced
	case d.done == nil: // reset since; nobody would serve the socket
		err = errReset
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.rd.stop()
	c.wd.stop()
	s := &spliced{fd: fd, watchIn: true, done: make(chan struct{})}
	s.tok = d.slots.take(c)
	if err := d.poll.add(fd, s.tok, true, false); err != nil {
		d.slots.giveBack(s.tok)
		unix.Close(fd)
		return nil, err
	}
	c.sock = s
	c.wakeAll() // whoever is in Read or Write leaves
	d.flush(c)
	d.schedule(c)
	d.pump()
	return s, nil
}

// dupStream duplicates the descriptor of a stream socket, nonblocking.
func dupStream(sock syscall.Conn) (fd int, err error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd = -1
	var dupErr error
	if err := raw.Control(func(from uintptr) {
		if fd, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3); dupErr != nil {
			dupErr = os.NewSyscallError("fcntl", dupErr)
		}
	}); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, dupErr
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		err = os.NewSyscallError("getsockopt", err)
	case typ != unix.SOCK_STREAM:
		err = os.NewSyscallError("getsockopt", unix.EPROTOTYPE)
	default:
		err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// socketReady takes what the poller says about c's socket.
func (d *Device) socketReady(c *Conn, r readiness) {
	s := c.sock
	if r.out && !c.in.empty() {
		d.flush(c)
	}
	if r.gone && s.fd >= 0 && !s.writeDone {
		d.sinkGone(c)
	}
	if !r.in || s.fd < 0 || s.readDone {
		return
	}
	if s.readable {
		// It waits for the guest, and would be reported over and over.
		d.watch(c, false, s.outOn)
		return
	}
	s.readable = true
	d.schedule(c)
}

func (d *Device) watch(c *Conn, in, out bool) {
	s := c.sock
	if s.watchIn == in && s.outOn == out {
		return
	}
	s.watchIn, s.outOn = in, out
	if err := d.poll.set(s.fd, s.tok, in, out); err != nil {
		d.kill(c, err, true)
	}
}

// feedSocket reads from c's socket straight into the guest's buffers.
func (d *Device) feedSocket(c *Conn) {
	s := c.sock
	limit, total := int(c.ep.window()), 0
	iov := d.iov[:0]
	for i := 0; i < d.rx.n && total < limit; i++ {
		var n int
		iov, n = d.rx.at(i).afterHeader(iov, limit-total)
		total += n
	}
	d.iov = iov
	if total == 0 { // buffers for bare headers
		d.putData(c, 0)
		return
	}
	n, err := d.vec.read(s.fd, iov)
	switch {
	case err == unix.EAGAIN:
		s.readable = false
		d.watch(c, true, s.outOn)
	case err != nil:
		d.kill(c, err, true)
	case n == 0:
		s.readDone = true
		d.watch(c, false, s.outOn)
		d.shut(c, shutSend)
		d.settle(c)
	default:
		if n < total {
			// Drained, most likely; if not, the poller says so.
			s.readable = false
			d.watch(c, true, s.outOn)
		}
		for n > 0 {
			m := min(n, d.rx.at(0).room-headerSize)
			d.putData(c, m)
			n -= m
		}
	}
}

// gathered is payload on its way to one socket: that of packets in a row which
// came on one connection leaves in one system call, straight from guest RAM. Their
// chains are not given back before.
type gathered struct {
	c     *Conn // nil: nothing
	iov   [][]byte
	n     int // bytes in iov
	heads []uint16
}

// gather adds a payload to what goes to c's socket at the next sendGathered.
func (d *Device) gather(c *Conn, payload [][]byte, n int) {
	if c.sock.writeDone {
		c.ep.passedOn(n)
		return
	}
	if !c.in.empty() { // it waits its turn behind what came before
		d.hold(c, payload, n)
		return
	}
	d.out.c = c
	d.out.iov = append(d.out.iov, payload...)
	d.out.n += n
}

// sendGathered writes what was gathered, holds what the socket does not take, and
// gives the chains back.
func (d *Device) sendGathered() error {
	if c := d.out.c; c != nil {
		d.out.c = nil
		if c.sock.fd >= 0 {
			d.writeGathered(c)
		}
		d.schedule(c)
		d.out.iov, d.out.n = d.out.iov[:0], 0
	}
	for _, head := range d.out.heads {
		if err := d.tx.q.Push(head, 0); err != nil {
			return err
		}
	}
	d.out.heads = d.out.heads[:0]
	return nil
}

func (d *Device) writeGathered(c *Conn) {
	s, v, n := c.sock, d.out.iov, d.out.n
	for n > 0 {
		m, err := d.vec.write(s.fd, v)
		if err == unix.EAGAIN {
			d.hold(c, v, n)
			d.watch(c, s.watchIn, true)
			return
		}
		if err != nil {
			c.ep.passedOn(n)
			d.sinkGone(c)
			return
		}
		c.ep.passedOn(m)
		n -= m
		v = queue.Skip(v, m)
	}
}

// flush writes what is held for c's socket.
func (d *Device) flush(c *Conn) {
	s := c.sock
	for !c.in.empty() {
		a, b := c.in.spans()
		d.iov = append(d.iov[:0], a)
		if len(b) > 0 {
			d.iov = append(d.iov, b)
		}
		n, err := d.vec.write(s.fd, d.iov)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			d.sinkGone(c)
			return
		}
		c.in.skip(n)
		c.ep.passedOn(n)
	}
	d.drained(c)
	d.watch(c, s.watchIn, !c.in.empty())
	d.schedule(c)
	d.settle(c)
}

// sinkGone drops what is for c's socket, now and later: nobody reads it.
func (d *Device) sinkGone(c *Conn) {
	s := c.sock
	s.writeDone = true
	n := c.in.n
	c.in.skip(n)
	d.drained(c)
	c.ep.passedOn(n)
	d.watch(c, s.watchIn, false)
	d.shut(c, shutReceive)
	d.settle(c)
}

// settle passes on to c's socket what ended on the guest's side, and lets go of
// it when nothing is left to do.
func (d *Device) settle(c *Conn) {
	s := c.sock
	if s == nil || s.fd < 0 {
		return
	}
	if !s.readDone && (!c.inTable || c.ep.peerShut&shutReceive != 0) {
		s.readDone = true
		_ = unix.Shutdown(s.fd, unix.SHUT_RD) // the socket's peer may be gone already
		d.watch(c, false, s.outOn)
		d.shut(c, shutSend)
	}
	if !s.writeDone && c.in.empty() && (!c.inTable || c.ep.peerShut&shutSend != 0) {
		s.writeDone = true
		_ = unix.Shutdown(s.fd, unix.SHUT_WR)
	}
	if s.fd >= 0 && s.readDone && s.writeDone {
		d.unsplice(c, c.err)
		d.shut(c, shutBoth)
	}
}

// unsplice lets go of c's socket.
func (d *Device) unsplice(c *Conn, err error) {
	s := c.sock
	if s == nil || s.fd < 0 {
		return
	}
	d.poll.remove(s.fd, s.tok)
	d.slots.giveBack(s.tok)
	discard(s.fd)
	_ = unix.Shutdown(s.fd, unix.SHUT_WR) // whoever else has the descriptor open: this is the end
	_ = unix.Close(s.fd)
	s.fd, s.readDone, s.writeDone = -1, true, true
	s.err = err
	close(s.done)
	c.closed = true
	c.in.skip(c.in.n)
	d.drained(c)
	d.release(c)
}

// discard reads what the guest did not want. Linux would else show the peer
// ECONNRESET in place of the end of what it still has to read.
func discard(fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_RD) // nothing comes after
	var b [4096]byte
	for range 256 {
		if n, err := unix.Read(fd, b[:]); n <= 0 && err != unix.EINTR {
			return
		}
	}
}
