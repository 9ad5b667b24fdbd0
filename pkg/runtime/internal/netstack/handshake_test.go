package netstack

import (
	"bytes"
	"runtime"
	"sync"
	"testing"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// handshakeCard shows the guest the acceptance of a connection when it is told of it,
// and notes which goroutines send it and tell.
type handshakeCard struct {
	*guestLink
	mu         sync.Mutex
	held       []byte // the frame
	sent, told string
}

// goroutine names the one that calls it.
func goroutine() string {
	b := make([]byte, 64)
	name, _, _ := bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(name)
}

func (c *handshakeCard) Send(q int, h *vnet.Header, v [][]byte) vnet.Status {
	frame := bytes.Join(v, nil)
	p := header.IPv4(frame[ethernetHeader:])
	if p.Protocol() != uint8(header.TCPProtocolNumber) || header.TCP(p.Payload()).Flags() != header.TCPFlagSyn|header.TCPFlagAck {
		return c.guestLink.Send(q, h, v)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held, c.sent = frame, goroutine()
	return vnet.Sent
}

func (c *handshakeCard) Flush(q int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		c.guestLink.Send(q, &vnet.Header{}, [][]byte{c.held})
		c.held, c.told = nil, goroutine()
	}
}

// TestHandshakeIsToldByAnother accepts a connection: who holds its lock must not be
// the one that wakes the guest.
func TestHandshakeIsToldByAnother(t *testing.T) {
	g := newGuest(t, Config{})
	card := &handshakeCard{guestLink: g.link}
	g.net.link.nic = card
	c, err := g.dial(echoServer(t))
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, "hello", string(exchange(t, c, []byte("hello"))))
	card.mu.Lock()
	defer card.mu.Unlock()
	require.NotEmpty(t, card.sent)
	require.NotEmpty(t, card.told)
	require.NotEqual(t, card.sent, card.told)
}
