package vsock

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(n)})
	rnd.Read(b)
	return b
}

// unixPair returns a connected pair of unix sockets.
func unixPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	var out [2]*net.UnixConn
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		out[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return out[0], out[1]
}

// spliceTest dials the guest and hands the connection over; the test talks to
// what it returns. result gets Splice's error.
func spliceTest(t testing.TB, d *Device, port uint32) (near *net.UnixConn, result chan error) {
	t.Helper()
	near, far := unixPair(t)
	c := dialTest(t, d, port)
	result = make(chan error, 1)
	go func() {
		err := c.Splice(far)
		far.Close()
		result <- err
	}()
	return near, result
}

type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// roundTrip sends data, says so, and wants it back to the end.
func roundTrip(t testing.TB, c duplex, data []byte) {
	t.Helper()
	errs := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.CloseWrite()
		}
		errs <- err
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, <-errs)
	require.True(t, bytes.Equal(data, got), "%d bytes came back, not the %d sent", len(got), len(data))
}

// pollers are the ways to wait, all of which must do on Linux.
var pollers = map[string]func() (poller, error){
	"native": newPoller,
	"poll":   func() (poller, error) { return newPollList() },
}

func eachPoller(t *testing.T, f func(t *testing.T, d *Device)) {
	for name, p := range pollers {
		t.Run(name, func(t *testing.T) {
			d, err := newDevice(Config{}, p)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, d.Close()) })
			f(t, d)
		})
	}
}

func TestTenMegabytesBothWays(t *testing.T) {
	all := randomBytes(10 << 20)
	eachPoller(t, func(t *testing.T, d *Device) {
		data := all
		if d.poll.bell() < 0 {
			data = all[:1<<20]
		}
		newStack(t, d, echo)
		c := dialTest(t, d, 1)
		roundTrip(t, c, data)
		require.NoError(t, c.Close())

		near, result := spliceTest(t, d, 1)
		roundTrip(t, near, data)
		require.NoError(t, <-result)
		require.Eventually(t, func() bool { return d.Stats().Open == 0 }, time.Minute, time.Millisecond)
		require.EqualValues(t, 2*len(data), d.Stats().BytesSent)
		require.EqualValues(t, 2*len(data), d.Stats().BytesReceived)
		require.Zero(t, d.Stats().Malformed)
	})
}

func TestCountersWrap(t *testing.T) {
	d := newTestDevice(t, Config{})
	s := newStack(t, d, func(c *gconn) {
		const start = 1<<32 - 100_000
		c.rx, c.fwd, c.told, c.tx, c.peer = start, start, start, start, start
	})
	d.mu.Lock() // before the guest's answer can be handled
	c := d.newConn(77, 1)
	c.ep.dial(uint32(d.cfg.Buffer))
	const start = 1<<32 - 100_000
	c.ep.rxCnt, c.ep.fwdCnt, c.ep.toldFwd, c.ep.txCnt, c.ep.peerFwd = start, start, start, start, start
	d.schedule(c)
	d.pump()
	d.mu.Unlock()
	<-c.rwake
	roundTrip(t, c, randomBytes(2<<20))
	require.NoError(t, c.Close())
	s.halt()
	require.Less(t, c.ep.txCnt, uint32(start))
}

func Test200ConnectionsAtOnce(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Device) {
		newStack(t, d, echo)
		data := randomBytes(40_000)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Add(1)
			if i%2 == 0 {
				c := dialTest(t, d, uint32(i))
				go func() {
					defer wg.Done()
					roundTrip(t, c, data[i:])
					c.Close()
				}()
				continue
			}
			near, result := spliceTest(t, d, uint32(i))
			go func() {
				defer wg.Done()
				roundTrip(t, near, data[i:])
				if err := <-result; err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		require.Eventually(t, func() bool { return d.Stats().Open == 0 }, time.Minute, time.Millisecond)
	})
}

func TestGuestDialsAndIsSpliced(t *testing.T) {
	d := newTestDevice(t, Config{})
	s := newStack(t, d, echo)
	l := listen(t, d, 1024)
	var got bytes.Buffer
	ended := make(chan struct{})
	s.dial(5000, 1024, func(c *gconn) {
		c.out, c.fin = []byte("ready"), true
		c.onData = func(b []byte) { got.Write(b) }
		c.onEnd = func() { close(ended) }
	})
	c, err := l.AcceptConn()
	require.NoError(t, err)
	near, far := unixPair(t)
	result := make(chan error, 1)
	go func() { result <- c.Splice(far) }()
	b, err := io.ReadAll(near)
	require.NoError(t, err)
	require.Equal(t, "ready", string(b))
	_, err = near.Write([]byte("go"))
	require.NoError(t, err)
	require.NoError(t, near.CloseWrite())
	require.NoError(t, <-result)
	<-ended
	require.Equal(t, "go", got.String())
}

func TestSpliceTakesWhatWasNotRead(t *testing.T) {
	d := newTestDevice(t, Config{})
	s := newStack(t, d, func(c *gconn) { c.out, c.fin = []byte("prompt> "), true })
	c := dialTest(t, d, 1)
	require.Eventually(t, func() bool { return d.Stats().BytesReceived == 8 }, time.Minute, time.Millisecond)
	s.do(func() {})
	near, far := unixPair(t)
	go c.Splice(far)
	b, err := io.ReadAll(near)
	require.NoError(t, err)
	require.Equal(t, "prompt> ", string(b))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	near.Close()
}

func TestSpliceWithClientThatGoesAway(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Device) {
		ended := make(chan struct{}, 8)
		newStack(t, d, func(c *gconn) {
			c.onData = func([]byte) {}
			c.onFin = func() {}
			c.onEnd = func() { ended <- struct{}{} }
			if c.local == 2 { // a guest that never stops talking
				chunk := make([]byte, 64<<10)
				c.refill = func() { c.out = chunk }
			}
		})
		// It closed while the guest is silent, and while it talks.
		for _, port := range []uint32{1, 2} {
			near, result := spliceTest(t, d, port)
			_, err := near.Write([]byte("x"))
			require.NoError(t, err)
			if port == 2 {
				_, err = io.ReadFull(near, make([]byte, 1<<20))
				require.NoError(t, err)
			}
			near.Close()
			err = <-result // unread bytes make it a reset
			require.True(t, err == nil || errorsIsAny(err, syscall.ECONNRESET), "%v", err)
			<-ended
		}
		// It was killed with bytes of ours on the way; the guest is slow.
		near, far := unixPair(t)
		attached := make(chan error, 1)
		go func() { attached <- d.Attach(t.Context(), 3, far) }()
		_, err := near.Write(make([]byte, 100_000))
		require.NoError(t, err)
		near.Close()
		require.NoError(t, <-attached)
		<-ended
	})
}

func TestSpliceErrors(t *testing.T) {
	d := newTestDevice(t, Config{})
	newStack(t, d, echo)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	c := dialTest(t, d, 1)
	require.ErrorContains(t, c.Splice(w), "getsockopt")
	require.Zero(t, d.Stats().Open)

	near, result := spliceTest(t, d, 1)
	require.NoError(t, d.Reset())
	require.ErrorIs(t, <-result, syscall.ECONNRESET)
	_, err = near.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.ErrorIs(t, d.Attach(t.Context(), 1, near), syscall.ENETDOWN)
}
