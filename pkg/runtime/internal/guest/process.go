package guest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// Process is a running or ended execution in a box.
//
// Stdout and Stderr end when the execution has written everything; read them to
// their end, before or after Wait. A reader that stops reading stops the
// execution's writes, and Wait with them. The owner calls Close when done.
type Process struct {
	ID  uint64
	PID int // in the guest

	// The streams that were asked for; the others are nil. With a terminal, Stdin
	// and Stdout are one connection and Stderr is nil. Closing Stdin is end of
	// file to the program. Each is the connection the Dialer made, or wraps it.
	Stdin  io.WriteCloser
	Stdout io.Reader
	Stderr io.Reader

	client  *Client
	tty     bool
	started bool          // the guest has announced it; guarded by Client.mu
	done    chan struct{} // closed by finish
	once    sync.Once
	status  agentapi.ExitStatus // valid when done
	err     error               // valid when done

	mu     sync.Mutex // guards what follows; may be taken with no other lock held
	conns  [agentapi.Terminal + 1]net.Conn
	closed bool
}

// killTimeout bounds the courtesy of killing what an abandoned Exec started.
const killTimeout = 5 * time.Second

// Exec starts a program. The streams are dialled while the request travels, so a
// start costs one round trip. ctx bounds the start only; when it ends early, what
// was started is killed. spec.ID is chosen here when it is 0. The error is an
// *[agentapi.Error] when the program could not be started.
func (c *Client) Exec(ctx context.Context, spec agentapi.ExecSpec) (*Process, error) {
	if spec.ID == 0 {
		spec.ID = newExecID()
	}
	p := &Process{ID: spec.ID, client: c, tty: spec.TTY, done: make(chan struct{})}
	id, reply, err := c.ask(p)
	if err != nil {
		return nil, err
	}
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	wants := spec.Wants()
	dialled := make(chan error, len(wants))
	for _, s := range wants {
		go func() { dialled <- p.dial(dialCtx, s) }()
	}
	sent := false
	if err = c.write(ctx, id, &spec); err == nil {
		sent = true
		var started *agentapi.Started
		if started, err = await[*agentapi.Started](ctx, c, reply); err == nil {
			p.PID = int(started.PID)
		}
	}
	var refused *agentapi.Error
	if errors.As(err, &refused) {
		sent = false // nothing runs
	}
	if err != nil {
		cancel()
	}
	for range wants {
		var e error
		select {
		case e = <-dialled:
		case <-c.done:
			cancel()
			e = <-dialled
		}
		if err == nil && e != nil {
			err = e
			cancel()
		}
	}
	if err != nil {
		c.forget(id)
		c.abandon(p, sent)
		return nil, wrap(agentapi.TypeExec, err)
	}
	p.expose()
	return p, nil
}

func (p *Process) expose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty {
		p.Stdin, p.Stdout = halfCloser{p.conns[agentapi.Terminal]}, p.conns[agentapi.Terminal]
		return
	}
	if conn := p.conns[agentapi.Stdin]; conn != nil {
		p.Stdin = conn
	}
	if conn := p.conns[agentapi.Stdout]; conn != nil {
		p.Stdout = conn
	}
	if conn := p.conns[agentapi.Stderr]; conn != nil {
		p.Stderr = conn
	}
}

// halfCloser closes the writing side of a terminal's connection only.
type halfCloser struct{ net.Conn }

func (h halfCloser) Close() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Conn returns the connection of a stream for whoever wants to splice it, or nil.
func (p *Process) Conn(s agentapi.Stream) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(s) >= len(p.conns) {
		return nil
	}
	return p.conns[s]
}

// dial opens one stream and keeps it, or closes it if the Process was closed
// meanwhile.
func (p *Process) dial(ctx context.Context, s agentapi.Stream) error {
	conn, err := p.client.dialer.Dial(ctx, agentapi.PortStream)
	if err != nil {
		return fmt.Errorf("opening %v: %w", s, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	header := agentapi.StreamHeader{Exec: p.ID, Stream: s}.Bytes()
	_, err = conn.Write(header[:])
	if !stop() {
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.closed {
		err = ErrClosed
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("opening %v: %w", s, err)
	}
	p.conns[s] = conn
	return nil
}

func newExecID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

func (c *Client) exited(m *agentapi.Exited) error {
	c.mu.Lock()
	p, ok := c.procs[m.ID]
	early := ok && !p.started
	if ok && !early {
		delete(c.procs, m.ID)
	} else {
		c.unasked++
	}
	c.mu.Unlock()
	if early {
		return fmt.Errorf("guest: %w: execution %#x ended before it started", ErrProtocol, m.ID)
	}
	if ok {
		p.finish(m.Status, nil)
	}
	return nil
}

// abandon forgets an execution whose start did not work out, and has the guest
// kill it if it may be running.
func (c *Client) abandon(p *Process, running bool) {
	c.mu.Lock()
	delete(c.procs, p.ID)
	if running && c.err == nil { // so Close has not begun to wait
		c.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
			defer cancel()
			call[*agentapi.OK](ctx, c, &agentapi.Kill{ID: p.ID})
		})
	}
	c.mu.Unlock()
	p.finish(agentapi.ExitStatus{}, fmt.Errorf("guest: execution was abandoned: %w", ErrClosed))
	p.Close()
}

func (p *Process) finish(s agentapi.ExitStatus, err error) {
	p.once.Do(func() {
		p.status, p.err = s, err
		close(p.done)
	})
}

// Done is closed when the execution has ended or can no longer be watched.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns how the execution ended, to any number of callers any number of
// times. It fails when ctx ends first or the connection is lost.
func (p *Process) Wait(ctx context.Context) (agentapi.ExitStatus, error) {
	select {
	case <-p.done:
		return p.status, p.err
	default:
	}
	select {
	case <-p.done:
		return p.status, p.err
	case <-ctx.Done():
		return agentapi.ExitStatus{}, fmt.Errorf("guest: waiting for execution: %w", context.Cause(ctx))
	}
}

// Signal sends a signal to the execution's process group. After its end the
// error is [agentapi.ErrExited].
func (p *Process) Signal(ctx context.Context, sig int) error {
	if sig < 0 || sig > 64 {
		return &agentapi.Error{Code: agentapi.CodeInvalid, Op: "signal", Msg: fmt.Sprintf("signal %d", sig)}
	}
	return p.request1(ctx, &agentapi.Signal{ID: p.ID, Signal: uint32(sig)})
}

// Kill ends every process of the execution's tree with SIGKILL. Killing what has
// ended is no error.
func (p *Process) Kill(ctx context.Context) error {
	err := p.request1(ctx, &agentapi.Kill{ID: p.ID})
	if errors.Is(err, agentapi.ErrExited) {
		return nil
	}
	return err
}

// Resize sets the size of the execution's terminal.
func (p *Process) Resize(ctx context.Context, rows, cols uint16) error {
	return p.request1(ctx, &agentapi.Resize{ID: p.ID, Rows: rows, Cols: cols})
}

func (p *Process) request1(ctx context.Context, m agentapi.Message) error {
	select {
	case <-p.done:
		if p.err != nil {
			return p.err
		}
		return &agentapi.Error{Code: agentapi.CodeExited, Op: m.Type().String(), Msg: "the execution has ended"}
	default:
	}
	_, err := call[*agentapi.OK](ctx, p.client, m)
	var e *agentapi.Error
	if errors.As(err, &e) && e.Code == agentapi.CodeNoProcess {
		err = &agentapi.Error{Code: agentapi.CodeExited, Op: e.Op, Msg: e.Msg} // it was there, so it has gone
	}
	return err
}

// Close closes the streams. It does not end the execution, though a program that
// writes to a closed stream gets SIGPIPE. It is idempotent.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, conn := range p.conns {
		if conn != nil {
			conn.Close()
		}
	}
	return nil
}
