package vsock

import (
	"io"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sources makes a guest that sends chunks of this size on every connection for
// as long as it has credit, and takes what comes.
func sources(size int) func(*gconn) {
	chunk := make([]byte, size)
	return func(c *gconn) {
		c.onData = func([]byte) {}
		c.refill = func() { c.out = chunk }
	}
}

func sinks(c *gconn) { c.onData = func([]byte) {} }

func BenchmarkGuestToSocket(b *testing.B) {
	for _, size := range []int{512, 4 << 10, 64 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			d := newTestDevice(b, Config{})
			newStack(b, d, sources(size))
			near, _ := spliceTest(b, d, 1)
			transfer(b, d, func(buf []byte) (int, error) { return near.Read(buf) })
		})
	}
}

func BenchmarkGuestToConn(b *testing.B) {
	d := newTestDevice(b, Config{})
	newStack(b, d, sources(64<<10))
	c := dialTest(b, d, 1)
	transfer(b, d, c.Read)
	c.Abort()
}

func BenchmarkSocketToGuest(b *testing.B) {
	d := newTestDevice(b, Config{})
	newStack(b, d, sinks)
	near, _ := spliceTest(b, d, 1)
	transfer(b, d, func(buf []byte) (int, error) { return near.Write(buf) })
}

func BenchmarkConnToGuest(b *testing.B) {
	d := newTestDevice(b, Config{})
	newStack(b, d, sinks)
	c := dialTest(b, d, 1)
	transfer(b, d, c.Write)
	c.Abort()
}

// transfer moves 1 MiB a time.
func transfer(b *testing.B, d *Device, move func([]byte) (int, error)) {
	const unit = 1 << 20
	buf := make([]byte, 256<<10)
	b.SetBytes(unit)
	b.ReportAllocs()
	cpu := cpuTime()
	defer func() { b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		for n := 0; n < unit; {
			m, err := move(buf)
			require.NoError(b, err)
			n += m
		}
	}
	b.StopTimer()
}

func BenchmarkPingPongSocket(b *testing.B) {
	d := newTestDevice(b, Config{})
	newStack(b, d, echo)
	near, _ := spliceTest(b, d, 1)
	pingPong(b, near)
}

func BenchmarkPingPongConn(b *testing.B) {
	d := newTestDevice(b, Config{})
	newStack(b, d, echo)
	c := dialTest(b, d, 1)
	pingPong(b, c)
	c.Abort()
}

func pingPong(b *testing.B, c io.ReadWriter) {
	var buf [64]byte
	b.ReportAllocs()
	cpu := cpuTime()
	defer func() { b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		_, err := c.Write(buf[:])
		require.NoError(b, err)
		_, err = io.ReadFull(c, buf[:])
		require.NoError(b, err)
	}
}

// cpuTime is what all threads of this process used, in nanoseconds: unlike wall
// time it tells something on a busy machine.
func cpuTime() int64 {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
