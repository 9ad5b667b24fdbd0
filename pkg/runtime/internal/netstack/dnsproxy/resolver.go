package dnsproxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// resolver asks the host's resolvers. Each question has a connected socket and an
// id of its own, so that an answer must come from who was asked, to a port and with
// an id that nobody else knows.
type resolver struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	conf confFile
	turn atomic.Uint32
}

var errNoAnswer = errors.New("dnsproxy: no resolver answered")

// exchange returns the answer, which the caller owns.
func (r *resolver) exchange(ctx context.Context, q *query) ([]byte, error) {
	c := r.conf.load()
	first := 0
	if c.rotate {
		first = int(r.turn.Add(1) % uint32(len(c.servers)))
	}
	var last []byte
	for range c.attempts {
		for i := range c.servers {
			server := c.servers[(first+i)%len(c.servers)]
			msg, err := r.try(ctx, q, server, c.timeout)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				continue
			}
			switch be.Uint16(msg[2:]) & rcodeMask {
			case rcodeServer, rcodeNotImplemented, rcodeRefused:
				last = msg // another one may know more
			default:
				return msg, nil
			}
		}
		if last != nil {
			return last, nil
		}
	}
	return nil, errNoAnswer
}

// try asks one resolver, by TCP too if the answer does not fit into a datagram.
func (r *resolver) try(ctx context.Context, q *query, server netip.AddrPort, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	msg, err := r.ask(ctx, q, "udp", server)
	if err == nil && be.Uint16(msg[2:])&flagTC != 0 {
		return r.ask(ctx, q, "tcp", server)
	}
	return msg, err
}

func (r *resolver) ask(ctx context.Context, q *query, network string, server netip.AddrPort) ([]byte, error) {
	conn, err := r.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	var id [2]byte
	rand.Read(id[:])
	out := make([]byte, 2, 2+len(q.msg))
	be.PutUint16(out, uint16(len(q.msg)))
	out = append(out, q.msg...)
	copy(out[2:], id[:])
	if network == "udp" {
		out = out[2:]
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	if network == "tcp" {
		msg, err := readFramed(conn, maxMessage)
		if err == nil && !q.answers(msg, be.Uint16(id[:])) {
			err = errMessage
		}
		return msg, err
	}
	buf := make([]byte, min(q.size, maxMessage))
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if q.answers(buf[:n], be.Uint16(id[:])) {
			return append([]byte(nil), buf[:n]...), nil
		}
	}
}

// readFramed reads a message with its length before it (RFC 1035 §4.2.2).
func readFramed(r io.Reader, limit int) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n < headerSize || n > limit {
		return nil, errMessage
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}
