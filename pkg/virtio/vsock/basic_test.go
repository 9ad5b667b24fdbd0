package vsock

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGuestConnectsAndTalks(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	l := listen(t, d, 1024)
	c := g.connect(l, 7)
	require.Equal(t, "2:1024", c.LocalAddr().String())
	require.Equal(t, "3:7", c.RemoteAddr().String())

	g.data(7, 1024, "hello")
	var b [16]byte
	n, err := c.Read(b[:])
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))

	n, err = c.Write([]byte("world"))
	require.NoError(t, err)
	require.Equal(t, 5, n)
	p := g.expect(opData)
	require.Equal(t, "world", string(p.data))
	require.EqualValues(t, 5, p.h.fwdCnt())
	require.EqualValues(t, 256<<10, p.h.bufAlloc())

	require.NoError(t, c.Close())
	p = g.expect(opShutdown)
	require.EqualValues(t, shutBoth, p.h.flags())
	require.Equal(t, 1, d.Stats().Open)
	g.op(opReset, 7, 1024, 0)
	require.Eventually(t, func() bool { return d.Stats().Open == 0 }, time.Minute, time.Millisecond)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	_, err = c.Read(b[:])
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestDial(t *testing.T) {
	d := newTestDevice(t, Config{MaxConns: 2})
	_, err := d.Dial(t.Context(), 5)
	require.ErrorIs(t, err, syscall.ENETDOWN)
	g := boot(t, d, allRing)

	type result struct {
		c   *Conn
		err error
	}
	dial := func(ctx context.Context) chan result {
		ch := make(chan result, 1)
		go func() { c, err := d.Dial(ctx, 5); ch <- result{c, err} }()
		return ch
	}
	// Answered.
	ch := dial(t.Context())
	p := g.expect(opRequest)
	require.EqualValues(t, 5, p.h.dstPort())
	g.op(opResponse, 5, p.h.srcPort(), 0)
	r := <-ch
	require.NoError(t, r.err)
	// Refused.
	ch = dial(t.Context())
	p = g.expect(opRequest)
	g.op(opReset, 5, p.h.srcPort(), 0)
	require.ErrorIs(t, (<-ch).err, syscall.ECONNREFUSED)
	// Given up.
	ctx, cancel := context.WithCancel(t.Context())
	ch = dial(ctx)
	p = g.expect(opRequest)
	cancel()
	require.ErrorIs(t, (<-ch).err, context.Canceled)
	require.Equal(t, p.h.srcPort(), g.expect(opReset).h.srcPort())
	// The answer comes late.
	g.op(opResponse, 5, p.h.srcPort(), 0)
	g.expect(opReset)
	// Answered by nonsense.
	ch = dial(t.Context())
	p = g.expect(opRequest)
	g.op(opCreditUpdate, 5, p.h.srcPort(), 0)
	require.ErrorIs(t, (<-ch).err, syscall.ECONNRESET)
	g.expect(opReset)
	// Too many.
	l := listen(t, d, 9)
	c := g.connect(l, 1)
	_, err = d.Dial(t.Context(), 5)
	require.ErrorIs(t, err, syscall.ENFILE)
	g.op(opRequest, 2, 9, 0)
	g.expect(opReset)
	c.Abort()
	g.expect(opReset)
	require.Equal(t, 1, d.Stats().Open)
	r.c.Abort()
	require.Equal(t, 0, d.Stats().Open)
}

func TestDeadlines(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	defer c.Abort()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, err.(net.Error).Timeout())
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	n, err := c.Write(make([]byte, guestWindow+1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.LessOrEqual(t, n, guestWindow)
	require.NoError(t, c.SetDeadline(time.Time{}))
	g.data(1, 1, "x")
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
}

func TestHalfClose(t *testing.T) {
	for _, hostFirst := range []bool{true, false} {
		d := newTestDevice(t, Config{})
		g := boot(t, d, allRing)
		c := g.connect(listen(t, d, 1), 1)
		if hostFirst {
			require.NoError(t, c.CloseWrite())
			require.EqualValues(t, shutSend, g.expect(opShutdown).h.flags())
			_, err := c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
			g.data(1, 1, "late")
			g.op(opShutdown, 1, 1, shutSend)
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "late", string(b))
		} else {
			g.data(1, 1, "early")
			g.op(opShutdown, 1, 1, shutSend)
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "early", string(b))
			_, err = c.Write([]byte("answer"))
			require.NoError(t, err)
			require.Equal(t, "answer", string(g.expect(opData).data))
			require.NoError(t, c.CloseWrite())
			require.EqualValues(t, shutSend, g.expect(opShutdown).h.flags())
		}
		require.NoError(t, c.Close())
		require.EqualValues(t, shutBoth, g.expect(opShutdown).h.flags())
		g.op(opReset, 1, 1, 0)
		g.op(opRequest, 2, 1, 0) // the port is free again
		g.expect(opResponse)
		require.Equal(t, 1, d.Stats().Open)
	}
}

func TestGuestShutsReading(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 2*guestWindow)) // more than there is credit for
		done <- err
	}()
	for n := 0; n < guestWindow; {
		n += len(g.expect(opData).data)
	}
	g.op(opShutdown, 1, 1, shutReceive)
	require.ErrorIs(t, <-done, syscall.EPIPE)
	require.NoError(t, c.Close())
}

func TestGuestCloses(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	g.data(1, 1, "last words")
	g.op(opShutdown, 1, 1, shutBoth)
	g.expect(opReset)    // at once, though nobody has read yet
	c2 := func() *Conn { // and the guest may use the port again
		g.op(opRequest, 1, 1, 0)
		g.expect(opResponse)
		c, err := d.listeners[1].AcceptConn()
		require.NoError(t, err)
		return c
	}()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "last words", string(b))
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)
	require.NoError(t, c.Close())
	require.Equal(t, 1, d.Stats().Open)
	// A reset without a farewell: what was received can be read, then ECONNRESET.
	g.data(1, 1, "cut o")
	g.op(opReset, 1, 1, 0)
	b, err = io.ReadAll(c2)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Equal(t, "cut o", string(b))
	require.NoError(t, c2.Close())
	require.Zero(t, d.Stats().Open)
}

func TestSimultaneousClose(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	require.NoError(t, c.Close())
	g.op(opShutdown, 1, 1, shutBoth)
	g.expect(opShutdown)
	g.expect(opReset)
	g.op(opReset, 1, 1, 0)
	g.op(opReset, 1, 1, 0)
	g.quiet()
	require.Zero(t, d.Stats().Open)
}

func TestCloseTimeout(t *testing.T) {
	d := newTestDevice(t, Config{CloseTimeout: time.Millisecond})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	require.NoError(t, c.Close())
	g.expect(opShutdown)
	g.expect(opReset)
	require.Zero(t, d.Stats().Open)
}

func TestCreditUpdatesByHalves(t *testing.T) {
	d := newTestDevice(t, Config{Buffer: 64 << 10})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	defer c.Abort()
	chunk := make([]byte, 8<<10)
	for range 4 {
		for range 3 {
			g.send(g.packet(opData, 1, 1, 0, len(chunk)), chunk)
			_, err := io.ReadFull(c, chunk)
			require.NoError(t, err)
		}
		g.quiet()
		g.send(g.packet(opData, 1, 1, 0, len(chunk)), chunk)
		_, err := io.ReadFull(c, chunk)
		require.NoError(t, err)
		g.expect(opCreditUpdate)
	}
	g.op(opCreditRequest, 1, 1, 0)
	require.EqualValues(t, 128<<10, g.expect(opCreditUpdate).h.fwdCnt())
}

func TestCreditExhaustionAndRefill(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	l := listen(t, d, 1)
	h := g.packet(opRequest, 1, 1, 0, 0)
	h.setCredit(10, 0)
	g.send(h, nil)
	g.expect(opResponse)
	c, err := l.AcceptConn()
	require.NoError(t, err)
	want := make([]byte, 95)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	done := make(chan error, 1)
	go func() { _, err := c.Write(want); done <- err }()
	var got []byte
	for len(got) < len(want) {
		p := g.expect(opData)
		got = append(got, p.data...)
		if len(got)%10 == 0 {
			g.quiet()
		}
		h := g.packet(opCreditUpdate, 1, 1, 0, 0)
		h.setCredit(10, uint32(len(got)))
		g.send(h, nil)
	}
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(want, got))
	c.Abort()
}

func TestResetConnections(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	c := g.connect(listen(t, d, 1), 1)
	d.ResetConnections() // no event buffer yet
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.NoError(t, c.Close())
	at := g.drv.Put([]byte{9, 9, 9, 9})
	n := g.drv.Do(queueEvent, virtBuf(at, 4))
	require.EqualValues(t, 4, n)
	require.Equal(t, []byte{0, 0, 0, 0}, g.drv.Bytes(at, 4))
	g.quiet() // no resets besides
	require.Zero(t, d.Stats().Open)
}

func TestDeviceReset(t *testing.T) {
	d := newTestDevice(t, Config{})
	g := boot(t, d, allRing)
	l := listen(t, d, 1)
	for range 3 {
		c := g.connect(l, 1)
		errs := make(chan error, 3)
		go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := c.Write(make([]byte, 10*guestWindow)); errs <- err }()
		go func() { _, err := d.Dial(context.Background(), 9); errs <- err }()
		g.recv()
		g.op(opRequest, 2, 1, 0) // stays in the backlog
		for g.recv().h.op() != opResponse {
		}
		g.drv.Reset()
		for range 3 {
			err := <-errs
			require.True(t, errorsIsAny(err, syscall.ECONNRESET, syscall.ENETDOWN), "%v", err)
		}
		require.NoError(t, c.Close())
		require.Zero(t, d.Stats().Open)
		g.up(allRing)
	}
	require.NoError(t, l.Close())
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	g.op(opRequest, 2, 1, 0)
	g.expect(opReset)
}
