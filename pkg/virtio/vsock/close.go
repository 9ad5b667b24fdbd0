package vsock

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Close ends the connection in order: what was written stays written, what was
// not read is dropped, and the guest is told. It does not wait for the guest.
func (c *Conn) Close() error {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	d.hangUp(c)
	d.pump()
	return nil
}

// Abort ends the connection at once: the guest gets a reset.
func (c *Conn) Abort() {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.abort(c, net.ErrClosed)
	d.pump()
}

func (d *Device) abort(c *Conn, err error) {
	d.kill(c, err, true)
	d.hangUp(c)
}

// hangUp is the end of c for its user.
func (d *Device) hangUp(c *Conn) {
	if c.closed {
		return
	}
	c.rd.stop()
	c.wd.stop()
	if c.sock != nil {
		d.unsplice(c, net.ErrClosed)
	}
	c.closed = true
	c.in.skip(c.in.n)
	d.drained(c)
	d.shut(c, shutBoth)
	c.wakeAll()
	d.release(c)
}

// CloseRead says that nothing more will be read: what comes is dropped, and the
// guest's writes fail.
func (c *Conn) CloseRead() error { return c.closeHalf("close", shutReceive) }

// CloseWrite says that nothing more will be written: the guest reads to the end
// of what was. A Write under way fails.
func (c *Conn) CloseWrite() error { return c.closeHalf("close", shutSend) }

func (c *Conn) closeHalf(op string, flags uint8) error {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.closed:
		return c.opError(op, net.ErrClosed)
	case c.sock != nil:
		return c.opError(op, errSpliced)
	case c.ep.state == stateDead:
		return c.opError(op, syscall.ENOTCONN)
	}
	if flags&shutReceive != 0 {
		n := c.in.n
		c.in.skip(n)
		d.drained(c)
		c.ep.passedOn(n)
	}
	d.shut(c, flags)
	c.wakeAll()
	d.pump()
	return nil
}

// shut adds to what we do no more. When that is everything, the guest has
// Config.CloseTimeout to agree.
func (d *Device) shut(c *Conn, flags uint8) {
	c.ep.shutdown(flags)
	if c.ep.state == stateClosing && c.timer == nil {
		c.timer = time.AfterFunc(d.cfg.CloseTimeout, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if c.inTable {
				d.kill(c, nil, true)
				d.pump()
			}
		})
	}
	d.schedule(c)
}

// deadline is a point in time after which a Read or Write fails.
type deadline struct {
	past  bool
	timer *time.Timer
	turn  uint64 // which setting of the deadline the timer belongs to
}

func (dl *deadline) stop() {
	dl.turn++
	if dl.timer != nil {
		dl.timer.Stop()
		dl.timer = nil
	}
}

func (c *Conn) setDeadline(dl *deadline, wake chan struct{}, t time.Time) {
	dl.stop()
	dl.past = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		dl.past = true
		poke(wake)
		return
	}
	turn := dl.turn
	dl.timer = time.AfterFunc(wait, func() {
		c.d.mu.Lock()
		defer c.d.mu.Unlock()
		if dl.turn == turn {
			dl.past = true
			poke(wake)
		}
	})
}

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.setDeadline(&c.rd, c.rwake, t)
	}
	if write {
		c.setDeadline(&c.wd, c.wwake, t)
	}
	return nil
}

// Addr is the address of one end of a connection (§5.10.4).
type Addr struct {
	CID  uint64
	Port uint32
}

// Network implements [net.Addr].
func (Addr) Network() string { return "vsock" }

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return Addr{HostCID, c.hostPort} }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.d.cfg.GuestCID, c.guestPort} }

func (c *Conn) opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }
