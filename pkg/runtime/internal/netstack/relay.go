package netstack

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// relay joins a connection of the guest to one of the host. Bytes go from the
// stack's buffers into the host's socket and back without one between, with
// back-pressure, half-close and resets either way.
type relay struct {
	net   *Network
	guest tcpip.Endpoint
	wq    *waiter.Queue
	host  *net.TCPConn

	buffer int64 // of tcpForwarder.buffers

	// sniff, when not nil, judges the guest's first bytes before they go on.
	sniff   *egress.Sniffer
	refusal egress.Verdict // its

	sent, received atomic.Uint64 // bytes: from the guest, to the guest
	finished       atomic.Bool   // the guest was told that no more comes
	gone           atomic.Bool   // the guest has reset the connection
	once           sync.Once
	why            error         // what cut it
	stop           chan struct{} // closed with it
}

func newRelay(n *Network, guest tcpip.Endpoint, wq *waiter.Queue, host *net.TCPConn) *relay {
	return &relay{net: n, guest: guest, wq: wq, host: host, stop: make(chan struct{})}
}

// chunk is the most that goes into the guest's connection in one piece.
const chunk = 256 << 10

// sniffTime bounds how long a first request that is to be judged may take.
const sniffTime = 30 * time.Second

// run returns when both directions are done; what was cut says why.
func (r *relay) run() error {
	defer r.host.Close()
	raw, err := r.host.SyscallConn()
	if err != nil {
		r.cut(err)
		return r.why
	}
	ends := waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) { r.hungUp() })
	r.wq.EventRegister(&ends)
	defer r.wq.EventUnregister(&ends)
	r.hungUp() // it may have been before
	down := make(chan struct{})
	if !r.net.spawn(func() {
		defer close(down)
		if err := r.download(raw); err != nil {
			r.cut(err)
		}
	}) {
		r.cut(errClosed)
		return r.why
	}
	if err := r.upload(raw); err != nil {
		r.cut(err)
	}
	<-down
	r.once.Do(func() {}) // from here on it is too late to cut it
	return r.why
}

// hungUp wakes both directions when the guest has reset the connection, as they may
// both be waiting for the host. The stack calls it, under its locks too.
func (r *relay) hungUp() {
	switch tcp.EndpointState(r.guest.State()) {
	case tcp.StateError:
	case tcp.StateClose: // so is a reset after the guest's own end; without it, after both ends
		if r.finished.Load() {
			return
		}
	default:
		return
	}
	r.gone.Store(true)
	r.host.SetLinger(0)
	r.host.SetDeadline(time.Unix(1, 0))
}

var errReset = errors.New("guest: connection reset by peer")

// cut ends both directions at once: each side sees a reset.
func (r *relay) cut(err error) {
	r.once.Do(func() {
		if r.why = err; r.gone.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			r.why = errReset
		}
		close(r.stop)
		r.guest.Abort()
		r.host.SetLinger(0)
		r.host.SetDeadline(time.Unix(1, 0)) // wakes who waits for the socket
	})
}

// free closes the guest's end; nobody may use it any more. It returns when the guest
// has taken or refused what is left, which the stack holds until then: so long the
// connection counts as one.
func (r *relay) free() {
	patience := r.net.tcp.orphan
	settle(r.guest, r.wq, patience, func() { cutIdle(r.guest, patience) })
}

// upload carries bytes from the guest to the host until the guest has sent its last.
func (r *relay) upload(raw syscall.RawConn) error {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	if r.sniff != nil {
		if err := r.judge(raw, readable); err != nil {
			return err
		}
	}
	for {
		var terr tcpip.Error
		var w socketWriter
		err := raw.Write(func(fd uintptr) bool {
			w.fd, w.full = int(fd), false
			_, terr = r.guest.Read(&w, tcpip.ReadOptions{})
			return !w.full // the socket takes no more: wait until it does
		})
		r.sent.Add(w.written)
		if err == nil {
			err = w.err
		}
		if err != nil {
			return err
		}
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-readable:
			case <-r.stop:
				return nil
			}
		case *tcpip.ErrClosedForReceive:
			return r.host.CloseWrite()
		default:
			return errors.New("guest: " + terr.String())
		}
	}
}

// judge holds the guest's first bytes until it is clear for whom they are.
func (r *relay) judge(raw syscall.RawConn, readable <-chan struct{}) error {
	var over <-chan time.Time // from the first byte on: whoever says nothing may wait for the server
	for {
		var first collector
		_, terr := r.guest.Read(&first, tcpip.ReadOptions{})
		verdict, done := egress.Verdict{}, false
		switch terr.(type) {
		case nil, *tcpip.ErrBadBuffer:
			verdict, done = r.sniff.Feed(first.b)
			if over == nil {
				over = time.After(sniffTime)
			}
		case *tcpip.ErrWouldBlock:
			select {
			case <-readable:
			case <-r.stop:
				return nil
			case <-over: // a slow speaker is judged by what there is
				verdict, done = r.sniff.End(false), true
			}
		case *tcpip.ErrClosedForReceive:
			verdict, done = r.sniff.End(true), true
		default:
			return errors.New("guest: " + terr.String())
		}
		if !done {
			continue
		}
		if !verdict.Allow {
			r.refusal = verdict
			return errDenied
		}
		return r.release(raw, r.sniff.Bytes())
	}
}

// release sends on what was held.
func (r *relay) release(raw syscall.RawConn, p []byte) error {
	var w socketWriter
	err := raw.Write(func(fd uintptr) bool {
		w.fd, w.full = int(fd), false
		n, _ := w.Write(p)
		p = p[n:]
		return !w.full
	})
	r.sent.Add(w.written)
	if err == nil {
		err = w.err
	}
	return err
}

// collector takes at most so many bytes that a sniffer has enough.
type collector struct{ b []byte }

func (c *collector) Write(p []byte) (int, error) {
	n := min(len(p), egress.SniffLimit+1-len(c.b))
	c.b = append(c.b, p[:n]...)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// download carries bytes from the host to the guest until the host has sent its last.
func (r *relay) download(raw syscall.RawConn) error {
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	for {
		var terr tcpip.Error
		var end bool
		var n int64
		var serr error
		err := raw.Read(func(fd uintptr) bool {
			var p socketReader
			if p, end, serr = readable(int(fd)); serr == syscall.EAGAIN {
				serr = nil
				return false
			} else if serr != nil || end {
				return true
			}
			n, terr = r.guest.Write(&p, tcpip.WriteOptions{})
			if p.err != nil {
				serr = p.err
			}
			return true
		})
		if err == nil {
			err = serr
		}
		if err != nil {
			return err
		}
		r.received.Add(uint64(n))
		if end {
			r.finished.Store(true)
			if terr := r.guest.Shutdown(tcpip.ShutdownWrite); terr != nil {
				return errors.New("guest: " + terr.String())
			}
			return nil
		}
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-writable:
			case <-r.stop:
				return nil
			}
		default:
			return errors.New("guest: " + terr.String())
		}
	}
}
