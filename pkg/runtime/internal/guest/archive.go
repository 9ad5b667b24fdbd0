package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// ErrSource is wrapped when it was the caller's reader that failed.
var ErrSource = errors.New("reading the archive")

// StatPath describes what lies at a path of the box. Nothing there is
// [agentapi.ErrNoPath].
func (c *Client) StatPath(ctx context.Context, path string, follow bool) (agentapi.PathInfo, error) {
	info, err := call[*agentapi.PathInfo](ctx, c, &agentapi.StatPath{Path: path, Follow: follow})
	if err != nil {
		return agentapi.PathInfo{}, err
	}
	return *info, nil
}

// Archive is a tar stream that the guest makes. It must be closed, and is read
// from one goroutine at a time.
type Archive struct {
	ctx    context.Context
	client *Client
	conn   net.Conn
	id     uint32
	reply  chan agentapi.Message
	unhook func() bool
	ended  error // answer of Read from now on
	once   sync.Once
}

// ArchiveGet has the guest archive what lies at a path; see
// [agentapi.ArchiveGet]. ctx bounds all of it, reading included. The errors that
// the guest meets come out of Read.
func (c *Client) ArchiveGet(ctx context.Context, path string, follow bool) (*Archive, error) {
	m := &agentapi.ArchiveGet{ID: newExecID(), Path: path, Follow: follow}
	id, reply, conn, err := c.openArchive(ctx, m, agentapi.StreamHeader{Exec: m.ID, Stream: agentapi.Stdout})
	if err != nil {
		return nil, err
	}
	a := &Archive{ctx: ctx, client: c, conn: conn, id: id, reply: reply}
	a.unhook = context.AfterFunc(ctx, func() { conn.Close() })
	return a, nil
}

// openArchive sends a request and dials the stream that belongs to it.
func (c *Client) openArchive(ctx context.Context, m agentapi.Message, h agentapi.StreamHeader) (id uint32, reply chan agentapi.Message, conn net.Conn, err error) {
	if conn, err = c.dialer.Dial(ctx, agentapi.PortStream); err != nil {
		return 0, nil, nil, fmt.Errorf("guest: %v: opening the stream: %w", m.Type(), err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	header := h.Bytes()
	_, err = conn.Write(header[:])
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil {
		id, reply, err = c.ask(nil)
	}
	if err == nil {
		if err = c.write(ctx, id, m); err != nil {
			c.forget(id)
		}
	}
	if err != nil {
		conn.Close()
		return 0, nil, nil, wrap(m.Type(), err)
	}
	return id, reply, conn, nil
}

// Read reads the stream. At its end the error is io.EOF only if the guest says
// that everything is in it.
func (a *Archive) Read(p []byte) (int, error) {
	if a.ended != nil {
		return 0, a.ended
	}
	n, err := a.conn.Read(p)
	if err == nil {
		return n, nil
	}
	a.ended = a.verdict(err)
	if n > 0 {
		return n, nil
	}
	return 0, a.ended
}

// verdict asks the guest what the end of the stream means.
func (a *Archive) verdict(err error) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if _, aerr := await[*agentapi.OK](a.ctx, a.client, a.reply); aerr != nil {
		return wrap(agentapi.TypeArchiveGet, aerr)
	}
	return err // io.EOF, unless the connection broke
}

// Close ends the stream, also in its middle. It is idempotent.
func (a *Archive) Close() error {
	a.once.Do(func() {
		a.unhook()
		a.conn.Close()
		a.client.forget(a.id)
	})
	return nil
}

// ArchivePut has the guest unpack a tar stream into a directory; see
// [agentapi.ArchivePut]. m.ID is chosen here. It returns when everything is in
// place. ctx closes the connection; a Read of the caller's that blocks is the
// caller's to end.
func (c *Client) ArchivePut(ctx context.Context, m agentapi.ArchivePut, tar io.Reader) error {
	m.ID = newExecID()
	id, reply, conn, err := c.openArchive(ctx, &m, agentapi.StreamHeader{Exec: m.ID, Stream: agentapi.Stdin})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer c.forget(id)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	src := &source{r: tar}
	_, err = io.Copy(conn, src)
	switch {
	case ctx.Err() != nil:
		return wrap(m.Type(), context.Cause(ctx))
	case src.err != nil:
		// The guest must not take what came so far for all of it.
		return fmt.Errorf("guest: %v: %w: %w", m.Type(), ErrSource, src.err)
	case err == nil:
		if hc, ok := conn.(interface{ CloseWrite() error }); ok {
			hc.CloseWrite() // a connection that broke has no answer either
		}
	}
	// When the guest has closed the connection, its answer says why.
	if _, aerr := await[*agentapi.OK](ctx, c, reply); aerr != nil {
		return wrap(m.Type(), aerr)
	}
	if err != nil { // it cannot have everything
		return fmt.Errorf("guest: %v: %w: %w", m.Type(), ErrProtocol, err)
	}
	return nil
}

// source tells errors of the reader from those of the connection.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
