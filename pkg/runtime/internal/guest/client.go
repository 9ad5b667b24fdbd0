// Package guest is the host's side of the agent that runs as PID 1 of a box.
//
// A [Client] speaks over one control connection and dials one more connection
// per stream of each execution. The guest is hostile: whatever it sends, every
// call ends with a typed error by its context's end at the latest, memory stays
// bounded by one frame, and no goroutine outlives [Client.Close].
package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// Dialer opens connections to vsock ports of the guest.
type Dialer interface {
	Dial(ctx context.Context, port uint32) (net.Conn, error)
}

// ErrClosed is wrapped by every error that is due to the control connection
// being gone: closed by us, by the guest, or with its virtual machine.
var ErrClosed = errors.New("connection to the agent is closed")

// ErrProtocol is wrapped when the guest broke the protocol. The connection is
// closed then.
var ErrProtocol = errors.New("the agent broke the protocol")

// Option changes a Client.
type Option func(*Client)

// OnEvent has f called with each [agentapi.Log] and [agentapi.PowerOff], one at
// a time. While f runs nothing else is received; it must not call the Client.
func OnEvent(f func(agentapi.Message)) Option { return func(c *Client) { c.onEvent = f } }

// Client is a control connection. All methods may be called from any goroutine.
type Client struct {
	conn    net.Conn
	dialer  Dialer
	onEvent func(agentapi.Message)
	writing chan struct{} // holds one token; taken while a frame is written
	done    chan struct{} // closed when the connection is over
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows; never held across I/O
	err     error      // why done is closed
	reason  string     // of the last PowerOff
	nextID  uint32
	pending map[uint32]*request
	procs   map[uint64]*Process
	unasked uint64
}

// request is a frame sent and not yet answered.
type request struct {
	reply chan agentapi.Message // has room for the one answer
	proc  *Process              // of an Exec
}

// New takes over conn, an accepted or dialled control connection, and waits for
// the agent's Hello. dialer serves the streams. On error conn is closed.
func New(ctx context.Context, conn net.Conn, dialer Dialer, opts ...Option) (*Client, agentapi.Hello, error) {
	c := &Client{
		conn: conn, dialer: dialer, onEvent: func(agentapi.Message) {},
		writing: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[uint32]*request{}, procs: map[uint64]*Process{},
	}
	for _, o := range opts {
		o(c)
	}
	r := agentapi.NewReader(conn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	hello, err := readHello(r)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, agentapi.Hello{}, fmt.Errorf("guest: waiting for the agent's hello: %w", err)
	}
	c.wg.Go(func() { c.receive(r) })
	return c, hello, nil
}

func readHello(r *agentapi.Reader) (agentapi.Hello, error) {
	body, err := r.Next()
	if err != nil {
		return agentapi.Hello{}, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	_, m, err := agentapi.Decode(body)
	// The version is the first field of every Hello there will ever be, so that a
	// mismatch is told apart from garbage.
	if agentapi.Type(body[0]) == agentapi.TypeHello && len(body) >= 9 {
		if v := binary.LittleEndian.Uint32(body[5:]); v != agentapi.Version {
			return agentapi.Hello{}, &agentapi.Error{
				Code: agentapi.CodeVersion, Op: "hello",
				Msg: fmt.Sprintf("the guest's agent speaks version %d, this program version %d: kernel and initramfs come from another release", v, agentapi.Version),
			}
		}
	}
	if err != nil {
		return agentapi.Hello{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	hello, ok := m.(*agentapi.Hello)
	if !ok {
		return agentapi.Hello{}, fmt.Errorf("%w: %v in place of hello", ErrProtocol, m.Type())
	}
	return *hello, nil
}

// Setup makes the guest into a box, once. Its error is an *[agentapi.Error] that
// names the step, or wraps [ErrClosed] or the context's.
func (c *Client) Setup(ctx context.Context, s agentapi.Setup) (agentapi.Ready, error) {
	s.Version = agentapi.Version
	ready, err := call[*agentapi.Ready](ctx, c, &s)
	if err != nil {
		return agentapi.Ready{}, err
	}
	return *ready, nil
}

// Mount puts file systems into the box, after Setup. Its error is like Setup's.
func (c *Client) Mount(ctx context.Context, points []agentapi.MountPoint) error {
	_, err := call[*agentapi.OK](ctx, c, &agentapi.Mount{Points: points})
	return err
}

// Ping makes one round trip.
func (c *Client) Ping(ctx context.Context) error {
	_, err := call[*agentapi.OK](ctx, c, &agentapi.Ping{})
	return err
}

// Shutdown ends the box in order: SIGTERM, SIGKILL after grace, disks written.
// It returns when the guest is about to reset, and closes the Client.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	if _, err := call[*agentapi.OK](ctx, c, &agentapi.Shutdown{Grace: grace}); err != nil {
		return err
	}
	return c.Close()
}

// Done is closed when the connection is over; [Client.Err] says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection lives, then what ended it.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// PowerOffReason is what the guest gave as the reason for ending itself, or "".
func (c *Client) PowerOffReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Close ends the connection and with it every execution that is not detached,
// and returns when no goroutine of the Client is left. It is idempotent.
func (c *Client) Close() error {
	c.fail(fmt.Errorf("guest: %w", ErrClosed))
	c.wg.Wait()
	return nil
}

// fail ends the connection for the given reason; only the first one counts.
func (c *Client) fail(reason error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = reason
	procs := c.procs
	c.procs, c.pending = nil, nil
	close(c.done)
	c.mu.Unlock()
	c.conn.Close()
	for _, p := range procs {
		p.finish(agentapi.ExitStatus{}, reason)
		p.Close()
	}
}

// receive is the only reader of the connection.
func (c *Client) receive(r *agentapi.Reader) {
	for {
		id, m, err := r.Read()
		switch {
		case errors.Is(err, agentapi.ErrFrame):
			err = fmt.Errorf("guest: %w: %w", ErrProtocol, err)
		case err != nil:
			err = fmt.Errorf("guest: %w: %w", ErrClosed, err)
		default:
			err = c.deliver(id, m)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// deliver routes one message. What nobody waits for, because the caller gave up
// or the guest made it up, is counted and dropped.
func (c *Client) deliver(id uint32, m agentapi.Message) error {
	if id != 0 {
		c.mu.Lock()
		q, ok := c.pending[id]
		delete(c.pending, id)
		if !ok {
			c.unasked++
		} else if _, is := m.(*agentapi.Started); is && q.proc != nil {
			q.proc.started = true
		}
		c.mu.Unlock()
		if ok {
			q.reply <- m
		}
		return nil
	}
	switch m := m.(type) {
	case *agentapi.Exited:
		return c.exited(m)
	case *agentapi.PowerOff:
		c.mu.Lock()
		c.reason = m.Reason
		c.mu.Unlock()
		c.onEvent(m)
	case *agentapi.Log:
		c.onEvent(m)
	default:
		return fmt.Errorf("guest: %w: %v that answers nothing", ErrProtocol, m.Type())
	}
	return nil
}

// Unasked counts answers to nothing and exits of unknown executions.
func (c *Client) Unasked() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unasked
}

// call sends a request and waits for its answer, which must be a T.
func call[T agentapi.Message](ctx context.Context, c *Client, m agentapi.Message) (answer T, err error) {
	id, reply, err := c.ask(nil)
	if err != nil {
		return answer, err
	}
	if err = c.write(ctx, id, m); err == nil {
		answer, err = await[T](ctx, c, reply)
	}
	if err != nil {
		c.forget(id)
		return answer, wrap(m.Type(), err)
	}
	return answer, nil
}

// wrap names the request, except for errors that name it already.
func wrap(t agentapi.Type, err error) error {
	var e *agentapi.Error
	if errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("guest: %v: %w", t, err)
}

// ask reserves a request id, and registers the execution if it starts one.
func (c *Client) ask(p *Process) (uint32, chan agentapi.Message, error) {
	q := &request{reply: make(chan agentapi.Message, 1), proc: p}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	if p != nil {
		if _, taken := c.procs[p.ID]; taken {
			return 0, nil, &agentapi.Error{Code: agentapi.CodeExists, Op: "exec", Msg: fmt.Sprintf("execution %#x exists", p.ID)}
		}
		c.procs[p.ID] = p
	}
	for {
		if c.nextID++; c.nextID == 0 {
			continue // 0 means unasked
		}
		if _, taken := c.pending[c.nextID]; !taken {
			c.pending[c.nextID] = q
			return c.nextID, q.reply, nil
		}
	}
}

func (c *Client) forget(id uint32) {
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
}

func await[T agentapi.Message](ctx context.Context, c *Client, reply chan agentapi.Message) (answer T, err error) {
	var m agentapi.Message
	select {
	case m = <-reply:
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	case <-c.done:
		select {
		case m = <-reply: // came just before the end
		default:
			return answer, c.Err()
		}
	}
	if e, ok := m.(*agentapi.Error); ok {
		return answer, e
	}
	answer, ok := m.(T)
	if !ok {
		err = fmt.Errorf("guest: %w: answered with %v", ErrProtocol, m.Type())
		c.fail(err)
	}
	return answer, err
}

// write sends one frame whole, or fails. When the context ends in the middle of
// a frame, the connection is beyond repair and is closed.
func (c *Client) write(ctx context.Context, id uint32, m agentapi.Message) error {
	frame, err := agentapi.AppendFrame(nil, id, m)
	if err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return c.Err()
	}
	defer func() { <-c.writing }()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	n, err := c.conn.Write(frame)
	if !stop() {
		<-interrupted
		c.conn.SetWriteDeadline(time.Time{})
		if err != nil && n == 0 {
			return context.Cause(ctx)
		}
	}
	if err != nil {
		c.fail(fmt.Errorf("guest: %w: %w", ErrClosed, err))
		return c.Err()
	}
	return nil
}
