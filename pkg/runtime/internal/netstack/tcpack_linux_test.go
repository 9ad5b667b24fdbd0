package netstack

import (
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
)

// TestTCPAcknowledges has an answer acknowledge its request, what has none be acknowledged
// all the same, and a stream at once.
func TestTCPAcknowledges(t *testing.T) {
	c, _ := rawOpen(t)
	c.say("x")
	s := c.hear()
	require.Equal(t, c.seq, s.ack)
	require.Empty(t, s.payload)
	c.quiet()

	c, far := rawOpen(t)
	c.h.net.tcp.delay = time.Hour
	for range 100 {
		c.say("x")
		requireRead(t, far, "x")
		_, err := far.Write([]byte("y"))
		require.NoError(t, err)
		s := c.hear()
		require.Equal(t, "y", string(s.payload))
		require.Equal(t, c.seq, s.ack)
		c.ack++
	}
	c.quiet()
	c.say(string(make([]byte, shortSegment+1)))
	require.Equal(t, c.seq, c.hear().ack)
	c.h.net.Host().Receive(0, &vnet.Header{}, scatter(c.frame(flagAck, 0, "a")))
	c.seq++
	c.say("b") // a second one
	require.Equal(t, c.seq, c.hear().ack)
}
