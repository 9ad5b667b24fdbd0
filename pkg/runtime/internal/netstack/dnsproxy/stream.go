package dnsproxy

import (
	"context"
	"net"
	"time"
)

// ServeStream answers the queries of a TCP connection one after the other, until
// the client ends, breaks the protocol, or is silent for Options.IdleTimeout, or ctx
// ends. It closes the connection.
func (s *Server) ServeStream(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		conn.SetDeadline(time.Now().Add(s.opts.IdleTimeout))
		msg, err := readFramed(conn, maxQuery)
		if err != nil {
			return
		}
		out := s.Handle(ctx, msg, 0)
		if out == nil {
			return
		}
		framed := make([]byte, 2, 2+len(out))
		be.PutUint16(framed, uint16(len(out)))
		conn.SetDeadline(time.Now().Add(s.opts.IdleTimeout))
		if _, err := conn.Write(append(framed, out...)); err != nil {
			return
		}
	}
}
