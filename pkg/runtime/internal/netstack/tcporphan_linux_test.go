package netstack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTCPOrphanOfMuch is an orphan of more than can wait: its end is yet to be read.
func TestTCPOrphanOfMuch(t *testing.T) {
	c, far := rawOpen(t)
	c.opened()
	c.window = 0
	c.send(flagAck|flagFin, 0, "")
	c.seq++
	require.Equal(t, c.seq, c.hear().ack)
	go func() {
		far.Write(make([]byte, maxRing+64<<10)) // more than the ring, and no more than the socket takes
		far.Close()
	}()
	f := c.flow()
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.orphaned && f.out.n == maxRing && !f.ended
	}, waitLong, tick)
	onTimeOf(f, func() { f.progress -= orphanTime })
	require.Eventually(t, func() bool { return c.h.net.tcp.open.Load() == 0 }, waitLong, tick)
}
