package vsock

import (
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// TestResetsUnderLoad resets the device and its connections in the middle of
// everything: nothing may be left behind.
func TestResetsUnderLoad(t *testing.T) {
	files := openFiles(t)
	eachPoller(t, func(t *testing.T, d *Device) {
		for round := range 12 {
			t.Run("", func(t *testing.T) { resetUnderLoad(t, d, round) }) // its sockets are closed at its end
			require.True(t, virtiotest.Poll(func() bool { return d.Stats().Open == 0 }), "%d open", d.Stats().Open)
		}
		require.NoError(t, d.Close())
	})
	require.True(t, virtiotest.Poll(func() bool { return openFiles(t) <= files }))
}

func resetUnderLoad(t *testing.T, d *Device, round int) {
	s := newStack(t, d, func(c *gconn) {
		if c.local%2 == 0 {
			sources(64 << 10)(c)
		}
	})
	var wg sync.WaitGroup
	var socks []net.Conn
	for i := range uint32(10) {
		near, far := unixPair(t)
		socks = append(socks, near, far)
		wg.Go(func() { _, _ = near.Write(make([]byte, 4<<20)) })
		if i%3 == 0 {
			wg.Go(func() { _, _ = near.Read(make([]byte, 4<<20)) })
		}
		wg.Go(func() { _ = d.Attach(t.Context(), i, far) })
		wg.Go(func() {
			c, err := d.Dial(t.Context(), i)
			if err != nil {
				return
			}
			_, _ = c.Write(make([]byte, 1<<20))
			_, _ = c.Read(make([]byte, 1<<20))
			_ = c.Close()
		})
	}
	time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	if round%3 == 0 {
		d.ResetConnections()
	}
	s.halt()
	require.NoError(t, s.drv.Transport.Close()) // resets the device
	for _, c := range socks {
		_ = c.Close()
	}
	wg.Wait()
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/dev/fd")
	require.NoError(t, err)
	return len(names)
}
