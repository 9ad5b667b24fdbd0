package vsock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

var suite = virtiotest.Suite{
	New: func(t testing.TB) virtio.Device { return newTestDevice(t, Config{}) },
	// A request to a port where nobody listens is answered by a reset.
	Exercise: func(d *virtiotest.Driver) {
		var h header
		h.setAddrs(DefaultGuestCID, HostCID, 1000, 2000)
		h.setOp(typeStream, opRequest, 0, 0)
		in, out := d.Put(h[:]), d.Alloc(headerSize)
		d.Rings[queueRX].Add(virtBuf(out, headerSize))
		d.Kick(queueRX)
		d.Do(queueTX, virtiotest.Buf{Addr: in, Len: headerSize})
		u, ok := d.WaitUsed(queueRX)
		require.True(d.T, ok)
		require.EqualValues(d.T, headerSize, u.Len)
		copy(h[:], d.Bytes(out, headerSize))
		require.Equal(d.T, opReset, h.op())
		require.EqualValues(d.T, 1000, h.dstPort())
		require.EqualValues(d.T, 2000, h.srcPort())
	},
	Waits: []int{queueRX, queueEvent},
	Stimulate: func(d *virtiotest.Driver, q int) {
		dev := d.Device().(*Device)
		if q == queueEvent {
			dev.ResetConnections()
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_, err := dev.Dial(ctx, 1)
		require.Error(d.T, err)
	},
}

func TestDevice(t *testing.T) { suite.Run(t) }

func TestHostile(t *testing.T) { suite.Hostile(t) }

func TestConfigSpace(t *testing.T) {
	d := newTestDevice(t, Config{GuestCID: 0x01020304})
	var p [12]byte
	d.ReadConfig(p[:])
	require.Equal(t, []byte{4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}, p[:])
	for _, c := range []Config{{GuestCID: 2}, {GuestCID: 1<<32 - 1}, {MaxConns: -1}, {Buffer: 1}, {Buffer: 1 << 30}, {CloseTimeout: -1}} {
		_, err := New(c)
		require.Error(t, err)
	}
}
