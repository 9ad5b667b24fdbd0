package virtiotest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

var echo = virtiotest.Suite{
	New: func(testing.TB) virtio.Device { return &virtiotest.Echo{Sizes: []uint16{128, 8}} },
	Exercise: func(d *virtiotest.Driver) {
		in, out := d.Put([]byte("ping")), d.Alloc(8)
		for q := range d.Rings {
			require.EqualValues(d.T, 4, d.Do(q, virtiotest.Buf{Addr: in, Len: 4}, virtiotest.Buf{Addr: out, Len: 8, Write: true}))
			require.Equal(d.T, "ping", string(d.Bytes(out, 4)))
		}
	},
}

func TestEcho(t *testing.T)        { echo.Run(t) }
func TestEchoHostile(t *testing.T) { echo.Hostile(t) }
