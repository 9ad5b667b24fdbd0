package vmm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// box is what the service acts on: the VMM process.
type box interface {
	main() *supervisor // nil for none
	stop(grace time.Duration)
	adopt() error
	detached() bool
	net() boxNetwork // nil for none
}

// boxNetwork is what the service does with a box's network.
type boxNetwork interface {
	stats() *NetworkStats
	ports() []Port
	addPort(Port) (Port, error)
	removePort(Port) error
	decide(ctx context.Context, conn net.Conn) error
}

// answerLimit bounds what a request may take, but for an attachment.
const answerLimit = 10 * time.Second

// serveClient answers one client's request. It returns when the client is gone,
// and closes the connection.
func serveClient(ctx context.Context, conn *net.UnixConn, b box) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetDeadline(time.Now().Add(answerLimit))
	var q request
	if err := readFrameLimit(conn, &q, requestLimit); err != nil {
		return err
	}
	if q.Op == opAttach {
		conn.SetDeadline(time.Time{})
		stop() // its writes have a deadline of their own; see hub.close
		return attach(ctx, conn, b, q.Attach)
	}
	if n := b.net(); q.Op == opDecide && n != nil {
		if err := writeFrame(conn, response{}); err != nil {
			return err
		}
		conn.SetDeadline(time.Time{})
		return n.decide(ctx, conn)
	}
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var r response
	switch q.Op {
	case opStatus:
		m := b.main()
		r.Ended, r.Idle = m != nil && m.outcome() != nil, m == nil
	case opNetwork, opAddPort, opRemovePort, opDecide:
		r = onNetwork(b.net(), &q)
	default:
		r.Error = act(limited, b, &q)
	}
	conn.SetWriteDeadline(time.Now().Add(answerLimit)) // the one above may have passed by now
	return writeFrame(conn, r)
}

// act does what a request asks for.
func act(ctx context.Context, b box, q *request) *agentapi.Error {
	switch q.Op {
	case opStop:
		b.stop(min(max(q.Grace, 0), maxGrace))
		return nil
	case opAdopt:
		return asError(q.Op, b.adopt())
	case opSignal, opResize:
		m := b.main()
		if m == nil {
			return noMain(q.Op)
		}
		cmd, gone := m.current(q.Op)
		if gone != nil {
			return gone
		}
		if q.Op == opSignal {
			return asError(q.Op, cmd.Signal(ctx, q.Signal))
		}
		return asError(q.Op, cmd.Resize(ctx, q.Rows, q.Cols))
	}
	return &agentapi.Error{Code: agentapi.CodeInvalid, Op: q.Op, Msg: "the box's VMM process does not know this request: it was started by another version of boxlite"}
}

// onNetwork does what a request asks of the network.
func onNetwork(n boxNetwork, q *request) (r response) {
	switch {
	case n == nil:
		r.Error = &agentapi.Error{Code: agentapi.CodeInvalid, Op: q.Op, Msg: "the box has no network"}
	case q.Op == opNetwork:
		r.Network, r.Ports = n.stats(), n.ports()
	case q.Port == nil:
		r.Error = &agentapi.Error{Code: agentapi.CodeInvalid, Op: q.Op, Msg: "no port is named"}
	case q.Op == opAddPort:
		p, err := n.addPort(*q.Port)
		r.Ports, r.Error = []Port{p}, asError(q.Op, err)
	case q.Op == opRemovePort:
		r.Error = asError(q.Op, n.removePort(*q.Port))
	}
	return r
}

// maxGrace keeps a stop within what timers can count.
const maxGrace = 365 * 24 * time.Hour

func noMain(op string) *agentapi.Error {
	return &agentapi.Error{Code: agentapi.CodeNoProcess, Op: op, Msg: "the box runs no command of its own"}
}

// asError is an error in the service's terms.
func asError(op string, err error) *agentapi.Error {
	var known *agentapi.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	}
	return &agentapi.Error{Code: agentapi.CodeSystem, Op: op, Msg: err.Error()}
}

// attach serves one client of the main command until it leaves.
func attach(ctx context.Context, conn *net.UnixConn, b box, q *AttachRequest) error {
	m := b.main()
	refuse := func(e *agentapi.Error) error {
		conn.SetWriteDeadline(time.Now().Add(answerLimit))
		return writeFrame(conn, response{Error: e})
	}
	if m == nil {
		return refuse(noMain(opAttach))
	} else if q == nil {
		return refuse(&agentapi.Error{Code: agentapi.CodeInvalid, Op: opAttach, Msg: "nothing is asked for"})
	}
	c := &attached{conn: conn, output: q.Output}
	c.writing.Lock() // output waits until the client has what it missed
	missed, err := m.hub.add(c, q.Backlog)
	if err != nil {
		c.writing.Unlock()
		return refuse(asError(opAttach, err))
	}
	defer m.hub.drop(c)
	if err := m.greet(ctx, c, q, missed); err != nil {
		return err
	}
	return m.clientInput(c, b)
}

// greet brings a client up to date and unlocks its writing.
func (s *supervisor) greet(ctx context.Context, c *attached, q *AttachRequest, missed []byte) error {
	defer c.writing.Unlock()
	r := response{TTY: s.spec.TTY, Stdin: s.takesInput()}
	if q.Start {
		if q.Rows != 0 || q.Cols != 0 {
			s.mu.Lock()
			s.size = [2]uint16{q.Rows, q.Cols}
			s.mu.Unlock()
		}
		s.begin()
		select {
		case <-s.started:
		case <-s.closed:
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
		if m := s.outcome(); m != nil {
			r.Error = m.Refused
		}
	}
	if err := writeFrame(c.conn, r); err != nil || r.Error != nil {
		return err
	}
	if len(missed) > 0 {
		if _, err := c.conn.Write(missed); err != nil {
			return err
		}
	}
	return nil
}

// clientInput takes a client's records until there are no more.
func (s *supervisor) clientInput(c *attached, b box) error {
	r := bufio.NewReaderSize(c.conn, 4<<10)
	buf := make([]byte, 0)
	for {
		kind, n, err := readHead(r)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if n > cap(buf) {
			buf = make([]byte, n)
		}
		p := buf[:n]
		if _, err := io.ReadFull(r, p); err != nil {
			return err
		}
		switch kind {
		case recStdin:
			s.stdin(p)
		case recCloseStdout, recCloseStderr:
			if !b.detached() {
				s.closeOutput(kind)
			}
		default:
			return errRecord
		}
	}
}
