package vsock

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	errReset   = syscall.ECONNRESET
	errRefused = syscall.ECONNREFUSED
)

// Conn is a stream connection with the guest. It implements [net.Conn] and
// half-close, and all methods may be called from any goroutine. Errors are
// [*net.OpError]: ECONNRESET once the guest, or a reset of the device, ended it;
// EPIPE for writes that the guest does not want any more.
//
// A Write returns when all bytes are in the guest's buffers.
type Conn struct {
	d                   *Device
	hostPort, guestPort uint32
	readMu, writeMu     sync.Mutex    // one Read, one Write at a time; taken before d.mu
	rwake, wwake        chan struct{} // of room for one: something changed for the reader, the writer

	// Guarded by d.mu:
	ep       endpoint
	inTable  bool
	counted  bool
	answered bool // the guest took part: a reset is not a refusal
	closed   bool // by the host's user, who wants nothing of it any more
	err      error
	timer    *time.Timer // of a close that the guest has not agreed to

	queued           bool
	runNext, runPrev *Conn

	wbuf   []byte // what the Write under way still has to send
	rbuf   []byte // where the Read under way wants its bytes
	rgot   int    // how many it got there
	in     fifo   // what came from the guest and was not read
	rd, wd deadline

	sock *spliced // nil unless spliced
}

// newConn enters a connection into the table.
func (d *Device) newConn(hostPort, guestPort uint32) *Conn {
	c := &Conn{
		d: d, hostPort: hostPort, guestPort: guestPort, inTable: true, counted: true,
		rwake: make(chan struct{}, 1), wwake: make(chan struct{}, 1),
	}
	d.conns[portKey(hostPort, guestPort)] = c
	d.open++
	d.count.opened.Add(1)
	return c
}

// kill takes c out of the table: no packet belongs to it any more. What it holds
// can still be read. err is what its users get, nil if it ended in order; with
// rst, the guest gets a reset.
func (d *Device) kill(c *Conn, err error, rst bool) {
	if !c.inTable {
		return
	}
	delete(d.conns, portKey(c.hostPort, c.guestPort))
	c.inTable = false
	d.run.remove(c)
	c.ep.state, c.ep.owes = stateDead, 0
	if c.err == nil {
		c.err = err
	}
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if rst {
		d.reset(stray{HostCID, c.hostPort, c.guestPort, typeStream})
	}
	c.wakeAll()
	d.settle(c)
	d.release(c)
}

// release takes c from the count of open connections once nothing is left of it.
func (d *Device) release(c *Conn) {
	if c.counted && !c.inTable && c.closed {
		c.counted = false
		d.open--
	}
}

func (c *Conn) wakeAll() {
	poke(c.rwake)
	poke(c.wwake)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// mayFeed reports whether c has data and the guest room for some.
func (c *Conn) mayFeed() bool {
	return c.ep.maySend() && (len(c.wbuf) > 0 || c.sock != nil && c.sock.readable && !c.sock.readDone)
}

// Read implements [net.Conn]. It returns io.EOF when the guest has closed its
// side and all it sent was read.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if err := c.readError(); err != nil {
			return 0, c.opError("read", err)
		}
		if len(p) == 0 {
			return 0, nil
		}
		if n := c.in.read(p); n > 0 {
			d.drained(c)
			c.ep.passedOn(n)
			if d.schedule(c); c.queued {
				d.pump()
			}
			return n, nil
		}
		if err := c.endOfRead(); err != nil {
			if err == io.EOF {
				return 0, err
			}
			return 0, c.opError("read", err)
		}
		c.rbuf, c.rgot = p, 0
		d.mu.Unlock()
		<-c.rwake
		d.mu.Lock()
		c.rbuf = nil
		if c.rgot > 0 {
			return c.rgot, nil
		}
	}
}

// readError is why nothing may be read now, whatever there is.
func (c *Conn) readError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.sock != nil:
		return errSpliced
	case c.rd.past:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// endOfRead is why nothing more will come.
func (c *Conn) endOfRead() error {
	switch {
	case c.ep.peerShut&shutSend != 0 || c.ep.ourShut&shutReceive != 0:
		return io.EOF
	case c.ep.state == stateDead:
		return c.err
	}
	return nil
}

// Write implements [net.Conn]. It blocks while the guest has no room.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := c.writeError(); err != nil {
		return 0, c.opError("write", err)
	}
	c.wbuf = p
	for len(p) > 0 {
		if d.schedule(c); c.queued {
			d.pump()
		}
		left := len(c.wbuf)
		if left == 0 {
			break
		}
		if err := c.writeError(); err != nil {
			c.wbuf = nil
			return len(p) - left, c.opError("write", err)
		}
		d.mu.Unlock()
		<-c.wwake
		d.mu.Lock()
	}
	c.wbuf = nil
	return len(p), nil
}

// writeError is why nothing may be written now.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.sock != nil:
		return errSpliced
	case c.ep.state == stateDead && c.err != nil:
		return c.err
	case c.ep.state != stateOpen || c.ep.ourShut&shutSend != 0 || c.ep.peerShut&shutReceive != 0:
		return syscall.EPIPE
	case c.wd.past:
		return os.ErrDeadlineExceeded
	}
	return nil
}
