package vsock

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// raceDetector says that the program allocates for reasons of its own.
var raceDetector bool

// TestNoAllocationsPerPacket counts those of the whole process, the guest included.
func TestNoAllocationsPerPacket(t *testing.T) {
	d := newTestDevice(t, Config{})
	var echoed [4096]byte
	newStack(t, d, func(c *gconn) {
		if c.local == 1 {
			c.onData = func(b []byte) { c.out = echoed[:copy(echoed[:], b)] }
			return
		}
		sources(64 << 10)(c)
	})
	steady := func(name string, f func()) {
		t.Helper()
		for range 20 {
			f()
		}
		if !raceDetector {
			require.Zero(t, testing.AllocsPerRun(100, f), name)
		}
	}
	buf := make([]byte, 256<<10)
	small := buf[:64]

	c := dialTest(t, d, 1)
	near, _ := spliceTest(t, d, 1)
	for name, rw := range map[string]io.ReadWriter{"conn": c, "socket": near} {
		steady(name+" ping-pong", func() {
			if _, err := rw.Write(small); err != nil {
				panic(err)
			}
			if _, err := io.ReadFull(rw, small); err != nil {
				panic(err)
			}
		})
	}
	bulkConn := dialTest(t, d, 2)
	bulkNear, _ := spliceTest(t, d, 2)
	for name, rw := range map[string]io.ReadWriter{"conn": bulkConn, "socket": bulkNear} {
		steady(name+" to guest", func() {
			if _, err := rw.Write(buf); err != nil {
				panic(err)
			}
		})
		steady(name+" from guest", func() {
			if _, err := io.ReadFull(rw, buf); err != nil {
				panic(err)
			}
		})
	}
	bulkConn.Abort()
	c.Abort()
}
