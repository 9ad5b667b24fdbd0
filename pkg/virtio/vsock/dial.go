package vsock

import (
	"context"
	"net"
	"os"
	"syscall"
)

// Ports from which Dial connects. Lower ones are for listeners, the top ones are reserved.
const (
	minDialPort = 1 << 30
	maxDialPort = 1 << 31
)

// Dial connects to a port of the guest. It fails with ECONNREFUSED if nobody
// listens there, ENETDOWN while the guest's driver is not up, ENFILE when there
// are Config.MaxConns connections, and with ctx's error. A guest that does not
// answer is waited for as long as ctx allows.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, d.dialError(port, net.ErrClosed)
	case !d.live:
		return nil, d.dialError(port, syscall.ENETDOWN)
	case d.open >= d.cfg.MaxConns:
		return nil, d.dialError(port, syscall.ENFILE)
	case ctx.Err() != nil:
		return nil, d.dialError(port, ctx.Err())
	}
	c := d.newConn(d.freePort(port), port)
	c.ep.dial(uint32(d.cfg.Buffer))
	d.schedule(c)
	d.pump()
	for c.ep.state == stateConnecting {
		d.mu.Unlock()
		select {
		case <-c.rwake:
			d.mu.Lock()
		case <-ctx.Done():
			d.mu.Lock()
			if c.ep.state == stateConnecting {
				d.kill(c, ctx.Err(), c.ep.owes&oweRequest == 0)
				d.pump()
			}
		}
	}
	if !c.answered {
		c.closed = true
		d.release(c)
		return nil, d.dialError(port, c.err)
	}
	return c, nil
}

// freePort finds a port of ours for a connection to the guest's port. There are
// more ports than connections, and the next one is almost always free.
func (d *Device) freePort(guest uint32) uint32 {
	for {
		p := d.nextPort
		if d.nextPort++; d.nextPort >= maxDialPort {
			d.nextPort = minDialPort
		}
		if d.conns[portKey(p, guest)] == nil && d.listeners[p] == nil {
			return p
		}
	}
}

func (d *Device) dialError(port uint32, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError("connect", errno)
	}
	return &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{d.cfg.GuestCID, port}, Err: err}
}

// backlog is how many connections of the guest wait for Accept, per listener.
const backlog = 128

// Listener takes connections that the guest opens to a port of the host. It
// implements [net.Listener], and survives resets of the device.
type Listener struct {
	d       *Device
	port    uint32
	backlog chan *Conn
	gone    chan struct{} // closed with the listener
	closed  bool          // guarded by d.mu
}

// Listen waits for connections of the guest to a port. It fails with EADDRINUSE
// for a port with a listener.
func (d *Device) Listen(port uint32) (*Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &Listener{d: d, port: port, backlog: make(chan *Conn, backlog), gone: make(chan struct{})}
	switch {
	case d.closed:
		return nil, l.opError("listen", net.ErrClosed)
	case d.listeners[port] != nil:
		return nil, l.opError("listen", syscall.EADDRINUSE)
	}
	d.listeners[port] = l
	return l, nil
}

// Accept implements [net.Listener]. Its connections are [*Conn].
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return c, nil
}

// AcceptConn is Accept with the concrete type.
func (l *Listener) AcceptConn() (*Conn, error) {
	select {
	case <-l.gone:
		return nil, l.opError("accept", net.ErrClosed)
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.gone:
		return nil, l.opError("accept", net.ErrClosed)
	}
}

// Close implements [net.Listener]. Connections that nobody accepted are reset.
func (l *Listener) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.closed {
		return l.opError("close", net.ErrClosed)
	}
	l.d.unlisten(l)
	l.d.pump()
	return nil
}

func (d *Device) unlisten(l *Listener) {
	l.closed = true
	delete(d.listeners, l.port)
	close(l.gone)
	d.rejectAll(l)
}

// rejectAll resets the connections that nobody accepted yet.
func (d *Device) rejectAll(l *Listener) {
	for {
		select {
		case c := <-l.backlog:
			d.abort(c, errReset)
		default:
			return
		}
	}
}

// Addr implements [net.Listener].
func (l *Listener) Addr() net.Addr { return Addr{HostCID, l.port} }

func (l *Listener) opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "vsock", Source: l.Addr(), Err: err}
}
