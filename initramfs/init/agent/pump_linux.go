package agent

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pumpBuf is how much one copy moves: half of a pipe's default capacity.
const pumpBuf = 32 << 10

// maxRest is the most that a pipe can hold (/proc/sys/fs/pipe-max-size).
const maxRest = 1 << 20

// bufs lends buffers to streams that have bytes to move; one that waits has none.
var bufs = sync.Pool{New: func() any { return new([pumpBuf]byte) }}

// errEnd is the end of a source: end of file, or a terminal whose last slave was
// closed (EIO).
var errEnd = errors.New("end")

// link is a stream's connection, which may come late or not at all. The two
// directions of a terminal share one.
type link struct {
	arrive <-chan Conn
	taken  chan struct{} // closed when conn is set
	gone   chan struct{} // closed by stop

	mu      sync.Mutex
	conn    Conn
	stopped bool
}

func newLink(arrive <-chan Conn) *link {
	return &link{arrive: arrive, taken: make(chan struct{}), gone: make(chan struct{})}
}

// get waits for the connection, or returns nil.
func (l *link) get(grace time.Duration) Conn {
	late, stop := after(grace)
	defer stop()
	select {
	case conn := <-l.arrive:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conn = conn
		close(l.taken)
		if l.stopped {
			conn.Close()
			return nil
		}
		return conn
	case <-l.taken:
		return l.conn
	case <-l.gone:
	case <-late:
	}
	return nil
}

// stop closes the connection, now or when it comes.
func (l *link) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped {
		l.stopped = true
		close(l.gone)
	}
	if l.conn != nil {
		l.conn.Close()
	}
}

// read takes what is there into a borrowed buffer, waiting without one.
func read(raw syscall.RawConn) (buf *[pumpBuf]byte, n int, err error) {
	var e error
	err = raw.Read(func(fd uintptr) bool {
		buf = bufs.Get().(*[pumpBuf]byte)
		for {
			if n, e = unix.Read(int(fd), buf[:]); e != unix.EINTR {
				break
			}
		}
		if n <= 0 {
			bufs.Put(buf)
			buf = nil
		}
		return e != unix.EAGAIN
	})
	switch {
	case err != nil:
		return nil, 0, err
	case e == unix.EIO || e == nil && n == 0:
		return nil, 0, errEnd
	case e != nil:
		return nil, 0, os.NewSyscallError("read", e)
	}
	return buf, n, nil
}

// output carries what a program writes to the host.
type output struct {
	s      *Server
	src    *os.File // our end of the pipe, or the terminal's master
	link   *link
	detach bool          // the program goes on when the host is gone
	done   chan struct{} // closed when the host has everything it will get
	held   bool          // valid when done: cut short, the output was still open

	cutting sync.Mutex
	ended   bool // guarded by cutting: no deadline is to be set any more
}

// run moves bytes until an end is reached.
func (o *output) run(grace time.Duration) {
	defer o.s.guard("output")
	defer o.src.Close()
	raw := o.carry(grace)
	o.cutting.Lock()
	o.ended = true
	o.src.SetReadDeadline(time.Time{}) // that of a cut which came too late
	o.cutting.Unlock()
	close(o.done)
	if raw != nil {
		// Keep daemons alive that inherited the output.
		for {
			buf, _, err := read(raw)
			if err != nil {
				return
			}
			bufs.Put(buf)
		}
	}
}

// carry returns the source if it is to be read on after the host's interest has
// ended.
func (o *output) carry(grace time.Duration) syscall.RawConn {
	conn := o.link.get(grace)
	if conn == nil {
		o.s.log("the connection of an output did not come in time")
		return nil
	}
	defer o.link.stop()
	defer conn.CloseWrite()
	raw, err := o.src.SyscallConn()
	if err != nil {
		return nil
	}
	for {
		buf, n, err := read(raw)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if o.held = o.rest(raw, conn); o.held {
				return raw
			}
			return nil
		}
		if err != nil {
			return nil
		}
		_, err = conn.Write(buf[:n])
		bufs.Put(buf)
		if err != nil {
			// The host does not listen any more: the program learns it by SIGPIPE.
			if o.detach {
				return raw
			}
			return nil
		}
	}
}

// rest sends what had been written when the stream was cut short and reports
// whether it is open still.
func (o *output) rest(raw syscall.RawConn, conn Conn) (open bool) {
	o.src.SetReadDeadline(time.Time{})
	buf := bufs.Get().(*[pumpBuf]byte)
	defer bufs.Put(buf)
	for moved := 0; moved < maxRest; {
		var n int
		var e error
		err := raw.Read(func(fd uintptr) bool {
			n, e = unix.Read(int(fd), buf[:])
			return true
		})
		switch {
		case err != nil:
			return false
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			return true
		case e != nil || n == 0:
			return false
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return true
		}
		moved += n
	}
	return true
}

// cut has the output deliver what is there and end, unless it has ended: what is
// read on then must not be cut off from those who still write.
func (o *output) cut() {
	o.cutting.Lock()
	defer o.cutting.Unlock()
	if !o.ended {
		o.src.SetReadDeadline(time.Unix(1, 0))
	}
}

// input carries what the host sends to a program.
type input struct {
	s        *Server
	dst      *os.File // our end of the pipe, or the terminal's master
	link     *link
	terminal bool
}

func (i *input) run(grace time.Duration) {
	defer i.s.guard("input")
	if !i.terminal { // the output closes terminal and connection
		defer i.dst.Close()
		defer i.link.stop()
	}
	conn := i.link.get(grace)
	if conn == nil {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	for {
		buf, n, err := read(raw)
		if err != nil {
			if i.terminal && err == errEnd {
				i.dst.Write([]byte{4}) // VEOF: how a person at a terminal ends input
			}
			return
		}
		_, err = i.dst.Write(buf[:n])
		bufs.Put(buf)
		if err != nil {
			return // nobody reads any more; closing tells the host
		}
	}
}
