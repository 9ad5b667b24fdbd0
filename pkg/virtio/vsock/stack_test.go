package vsock

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// stack is a guest with programs: it accepts connections of the host on any
// port, keeps credit honestly, and lets a service deal with the bytes. It runs on
// a goroutine of its own.
type stack struct {
	*guest
	conns   map[uint64]*gconn
	service func(*gconn)
	calls   chan func()
	stop    chan struct{}
	done    chan struct{}
	packets int
}

// gconn is the guest's end of a connection.
type gconn struct {
	s             *stack
	local, remote uint32
	open          bool
	rx, fwd, told uint32
	tx, alloc     uint32
	peer          uint32

	out     []byte // to be sent
	fin     bool   // after that
	finSent bool
	hostFin bool
	slow    bool // reads nothing

	onData func(b []byte) // takes all of it; nil: echo
	onFin  func()
	onEnd  func()
	refill func() // called when out is empty
}

func newStack(t testing.TB, d *Device, service func(*gconn)) *stack {
	t.Helper()
	s := &stack{
		guest: boot(t, d, allRing), conns: map[uint64]*gconn{}, service: service,
		calls: make(chan func()), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go s.run()
	t.Cleanup(s.halt)
	return s
}

func (s *stack) halt() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.done
}

// do runs f on the guest's goroutine.
func (s *stack) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() { f(); close(done) }
	<-done
}

func (s *stack) run() {
	defer close(s.done)
	for {
		moved := false
		for range 256 {
			p, ok := s.take()
			if !ok {
				break
			}
			s.packet(p)
			moved = true
		}
		for _, c := range s.conns {
			moved = c.flush() || moved
		}
		if moved || s.drv.Rings[queueRX].WantInterrupt() || s.reapTX() && s.pending() {
			select {
			case <-s.stop:
				return
			default:
				continue
			}
		}
		select {
		case <-s.irq:
			s.drv.Write(0x064, 3)
		case f := <-s.calls:
			f()
		case <-s.stop:
			return
		}
	}
}

// reapTX asks for an interrupt of the other queue, and reports whether it freed anything.
func (s *stack) reapTX() bool {
	before := len(s.tx)
	for more := true; more; more = s.drv.Rings[queueTX].WantInterrupt() {
		for {
			u, ok := s.drv.Rings[queueTX].Reap()
			if !ok {
				break
			}
			s.tx = append(s.tx, s.sent[u.Head])
			delete(s.sent, u.Head)
		}
	}
	return len(s.tx) != before
}

func (s *stack) pending() bool {
	for _, c := range s.conns {
		if len(c.out) > 0 {
			return true
		}
	}
	return false
}

func (c *gconn) send(o op, flags uint32, data []byte) {
	var h header
	h.setAddrs(c.s.d.cfg.GuestCID, HostCID, c.local, c.remote)
	h.setOp(typeStream, o, flags, uint32(len(data)))
	h.setCredit(guestWindow, c.fwd)
	c.told = c.fwd
	c.s.send(h, data)
}

func (s *stack) packet(p *pkt) {
	s.packets++
	key := portKey(p.h.srcPort(), p.h.dstPort())
	c := s.conns[key]
	if c == nil {
		if p.h.op() != opRequest {
			if p.h.op() != opReset {
				s.op(opReset, p.h.dstPort(), p.h.srcPort(), 0)
			}
			return
		}
		c = s.add(p.h.dstPort(), p.h.srcPort())
		s.service(c)
		c.open = true
		c.credit(p)
		c.send(opResponse, 0, nil)
		return
	}
	c.credit(p)
	switch p.h.op() {
	case opResponse:
		c.open = true
	case opData:
		if c.rx += p.h.len(); c.rx-c.fwd > guestWindow {
			s.t.Errorf("port %d: %d bytes beyond the window", c.local, c.rx-c.fwd-guestWindow)
		}
		if c.slow {
			return
		}
		if c.onData != nil {
			c.onData(p.data)
			c.fwd += p.h.len()
		} else {
			c.out = append(c.out, p.data...)
		}
		c.tell()
	case opShutdown:
		if p.h.flags() == shutBoth {
			c.send(opReset, 0, nil)
			c.end()
			return
		}
		if p.h.flags()&shutSend != 0 && !c.hostFin {
			c.hostFin = true
			if c.onFin != nil {
				c.onFin()
			} else {
				c.fin = true
			}
		}
	case opReset:
		c.end()
	}
}

// tell updates the host's credit as Linux does: late, or when all is read.
func (c *gconn) tell() {
	if free := guestWindow - (c.fwd - c.told); c.fwd != c.told && (free < 64<<10 || c.fwd == c.rx) {
		c.send(opCreditUpdate, 0, nil)
	}
}

func (c *gconn) credit(p *pkt) { c.alloc, c.peer = p.h.bufAlloc(), p.h.fwdCnt() }

func (c *gconn) end() {
	delete(c.s.conns, portKey(c.remote, c.local))
	if c.onEnd != nil {
		c.onEnd()
	}
}

// flush sends what credit allows.
func (c *gconn) flush() (moved bool) {
	for c.open {
		if len(c.out) == 0 && c.refill != nil {
			c.refill()
		}
		n := min(len(c.out), int(c.alloc-(c.tx-c.peer)), 64<<10)
		if n <= 0 || len(c.s.tx) == 0 && !c.s.reapTX() {
			break
		}
		if c.onData == nil {
			c.fwd += uint32(n) // an echo has passed on what it sent back
		}
		c.send(opData, 0, c.out[:n])
		c.tx += uint32(n)
		c.out = c.out[n:]
		moved = true
	}
	if c.fin && !c.finSent && len(c.out) == 0 {
		c.finSent = true
		c.send(opShutdown, shutSend, nil)
		moved = true
	}
	return moved
}

func (s *stack) add(local, remote uint32) *gconn {
	c := &gconn{s: s, local: local, remote: remote}
	s.conns[portKey(remote, local)] = c
	return c
}

// dial connects a program of the guest to a port of the host.
func (s *stack) dial(local, remote uint32, service func(*gconn)) {
	s.do(func() {
		c := s.add(local, remote)
		service(c)
		c.send(opRequest, 0, nil)
	})
}

func echo(*gconn) {}

func dialTest(t testing.TB, d *Device, port uint32) *Conn {
	t.Helper()
	c, err := d.Dial(t.Context(), port)
	require.NoError(t, err)
	return c
}
