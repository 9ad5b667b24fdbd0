package netstack

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/stretchr/testify/require"
)

// TestUDPForNobody has the sweep take what comes for a guest without a driver, so that
// it does not fill the host's sockets.
func TestUDPForNobody(t *testing.T) {
	f, _, reply := quietFlow(t, "127.0.0.1:0", Host4)
	for range 200 {
		reply(make([]byte, 100))
	}
	f.table.sweep() // the card was there a moment ago
	require.Zero(t, f.received.Load())
	f.table.net.sockets.seen.Store(0)
	f.table.sweep()
	require.EqualValues(t, 200*100, f.received.Load())
}

// TestBellAmongDatagrams has more come than one round carries: the bell gets its turn,
// nothing is left, and no flow waits twice.
func TestBellAmongDatagrams(t *testing.T) {
	f, _, reply := quietFlow(t, "127.0.0.1:0", Host4)
	s := &f.table.net.sockets
	bell, err := virtio.NewDoorbell()
	require.NoError(t, err)
	defer bell.Close()
	w := s.find(int32(f.fd))
	const n = round - burst/2 // all that fits into a socket's buffer
	for range n {
		reply([]byte("x"))
	}
	s.queue(w)
	s.queue(w)
	require.Len(t, s.ready, 1)
	bell.Ring()
	require.True(t, s.wait(bell, true, nothing))
	require.EqualValues(t, n, f.received.Load())
	require.Empty(t, s.ready)

	require.True(t, s.wait(bell, false, nothing), "there is nothing to wait for")
	for range 2 * burst {
		reply([]byte("x"))
	}
	s.queue(w)
	for range round { // so many that no other flow gets a turn
		s.ready = append(s.ready, &watched{owner: &udpFlow{table: f.table, fd: -1}})
	}
	require.True(t, s.wait(bell, true, nothing), "a round is over")
	require.NotEmpty(t, s.ready)
	for len(s.ready) > 0 {
		require.True(t, s.wait(bell, false, nothing))
	}
	require.EqualValues(t, n+2*burst, f.received.Load())
}

// nothing is owed to the guest.
func nothing(bool) bool { return false }
