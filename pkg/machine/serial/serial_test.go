package serial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sink collects output and can be told to block.
type sink struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	gate chan struct{} // nil: open
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// line records an interrupt line.
type line struct {
	mu    sync.Mutex
	level bool
	edges int
}

func (l *line) set(level bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level && !l.level {
		l.edges++
	}
	l.level = level
}

func (l *line) get() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level
}

func newUART(t *testing.T, out io.Writer) (*UART, *line) {
	t.Helper()
	l := new(line)
	u := New(out, l.set)
	t.Cleanup(func() { u.Close() })
	return u, l
}

func drain(t *testing.T, u *UART) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, u.Drain(ctx))
}

// ready is what a driver does to receive by interrupt.
func ready(u *UART) {
	u.WritePort(regFCR, fcrEnable)
	u.WritePort(regMCR, mcrDTR|mcrRTS|mcrOUT2)
	u.WritePort(regIER, ierReceived)
}

func TestOutputReachesSink(t *testing.T) {
	out := new(sink)
	u, _ := newUART(t, out)
	text := strings.Repeat("Linux version 6.12\n", 1000) // less than the buffer
	for i := range len(text) {
		require.Equal(t, byte(lsrEmpty), u.ReadPort(regLSR))
		u.WritePort(regData, text[i])
	}
	drain(t, u)
	require.Equal(t, text, out.String())
	require.Zero(t, u.Dropped())
}

// TestLinuxFindsA16550A follows autoconfig and autoconfig_16550a of
// drivers/tty/serial/8250/8250_port.c, full probe included.
func TestLinuxFindsA16550A(t *testing.T) {
	u, l := newUART(t, io.Discard)
	in, out := u.ReadPort, u.WritePort

	// existence: the low half of IER keeps what is written
	out(regIER, 0)
	require.Zero(t, in(regIER)&0x0f)
	out(regIER, 0x0f)
	require.EqualValues(t, 0x0f, in(regIER)&0x0f)
	out(regIER, 0)

	// loopback: OUT2 and RTS come back as DCD and CTS
	mcr := in(regMCR)
	out(regMCR, mcrLoop|mcrOUT2|mcrRTS)
	require.EqualValues(t, msrDCD|msrCTS, in(regMSR)&0xf0)
	out(regMCR, mcr)

	// FIFO bits of IIR: 16550A
	out(regLCR, 0xbf)
	out(regFCR, 0)
	out(regLCR, 0)
	out(regFCR, fcrEnable)
	require.EqualValues(t, 0xc0, in(regIIR)&0xc0)

	// no EFR in either configuration mode
	out(regLCR, lcrDLAB)
	require.NotZero(t, in(regIIR))
	out(regLCR, 0xbf)
	require.NotZero(t, in(regIIR))
	// no National Semiconductor bank switching: LOOP does not show at offset 2
	for _, m := range []byte{0, mcrLoop} {
		out(regLCR, 0)
		out(regMCR, m)
		out(regLCR, 0xe0)
		require.Zero(t, in(regIIR)&mcrLoop)
	}
	out(regLCR, 0)
	out(regMCR, 0)
	// no 64-byte FIFO, with DLAB or without
	for _, lcr := range []byte{0, lcrDLAB} {
		out(regLCR, lcr)
		out(regFCR, fcrEnable|1<<5)
		require.EqualValues(t, 0xc0, in(regIIR)&0xe0)
	}
	out(regLCR, 0)
	// no UUE bit in IER
	out(regIER, 0x40)
	require.Zero(t, in(regIER))

	// serial8250_do_startup: THRE is raised each time it is enabled
	out(regFCR, fcrEnable)
	out(regFCR, fcrEnable|fcrResetReceive|1<<2)
	out(regFCR, 0)
	require.NotEqualValues(t, 0xff, in(regLSR))
	for range 2 {
		out(regIER, ierEmpty)
		require.EqualValues(t, iirEmpty, in(regIIR))
		require.EqualValues(t, iirNone, in(regIIR), "reading IIR ends the interrupt")
		out(regIER, 0)
	}
	require.Zero(t, l.edges, "no interrupt without OUT2")
}

func TestTransmitInterrupt(t *testing.T) {
	u, l := newUART(t, io.Discard)
	u.WritePort(regMCR, mcrOUT2)
	u.WritePort(regIER, ierEmpty)
	require.True(t, l.get())
	// A driver that stops looking in the middle must get a new edge: this is
	// what keeps an edge-triggered line alive.
	for range 3 {
		edges := l.edges
		require.EqualValues(t, iirEmpty, u.ReadPort(regIIR))
		require.False(t, l.get())
		u.WritePort(regData, 'x')
		require.True(t, l.get())
		require.Equal(t, edges+1, l.edges)
	}
	u.WritePort(regIER, 0)
	require.False(t, l.get())
}

func TestInput(t *testing.T) {
	u, l := newUART(t, io.Discard)
	text := "echo hello, this is more than one FIFO holds\n"
	n, err := u.Write([]byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
	require.Zero(t, u.ReadPort(regLSR)&lsrReady, "the guest has not raised DTR or RTS")

	// the resets of a driver's start lose nothing
	u.WritePort(regFCR, fcrEnable|fcrResetReceive)
	u.WritePort(regFCR, 0)
	u.ReadPort(regData)
	ready(u)
	require.True(t, l.get())
	require.EqualValues(t, iirReceived|iirFIFO, u.ReadPort(regIIR))
	var got []byte
	for u.ReadPort(regLSR)&lsrReady != 0 {
		got = append(got, u.ReadPort(regData))
	}
	require.Equal(t, text, string(got))
	require.False(t, l.get())

	u.WritePort(regFCR, 0) // without FIFO: one byte at a time
	_, err = u.Write([]byte("ab"))
	require.NoError(t, err)
	require.EqualValues(t, 'a', u.ReadPort(regData))
	require.EqualValues(t, 'b', u.ReadPort(regData))
	require.Zero(t, u.ReadPort(regData))
}

func TestLoopback(t *testing.T) {
	out := new(sink)
	u, l := newUART(t, out)
	ready(u)
	u.WritePort(regMCR, mcrLoop|mcrOUT2)
	_, err := u.Write([]byte("host"))
	require.NoError(t, err)
	for c := range byte(fifoSize + 1) {
		u.WritePort(regData, c)
	}
	require.False(t, l.get(), "the line is cut in loopback")
	require.EqualValues(t, lsrEmpty|lsrReady|lsrOverrun, u.ReadPort(regLSR))
	require.EqualValues(t, lsrEmpty|lsrReady, u.ReadPort(regLSR), "reading LSR clears the error")
	for c := range byte(fifoSize) {
		require.Equal(t, c, u.ReadPort(regData))
	}
	require.Zero(t, u.ReadPort(regLSR)&lsrReady)
	drain(t, u)
	require.Empty(t, out.String())
}

func TestModemStatus(t *testing.T) {
	u, l := newUART(t, io.Discard)
	u.WritePort(regMCR, mcrOUT2)
	require.EqualValues(t, msrReady, u.ReadPort(regMSR))
	u.WritePort(regIER, ierModem)
	u.WritePort(regMCR, mcrLoop|mcrOUT1) // CTS, DSR and DCD fall, RI rises
	u.WritePort(regMCR, mcrOUT2)         // and back: RI falls
	require.True(t, l.get())
	require.EqualValues(t, iirModem, u.ReadPort(regIIR))
	require.EqualValues(t, msrReady|msrDeltas, u.ReadPort(regMSR))
	require.False(t, l.get())
	require.EqualValues(t, msrReady, u.ReadPort(regMSR))
}

func TestScratchDivisorAndNothing(t *testing.T) {
	u, _ := newUART(t, io.Discard)
	u.WritePort(regSCR, 0x5a)
	u.WritePort(regLCR, lcrDLAB|3)
	u.WritePort(0, 0x01)
	u.WritePort(1, 0x02)
	require.EqualValues(t, 1, u.ReadPort(0))
	require.EqualValues(t, 2, u.ReadPort(1))
	require.EqualValues(t, lcrDLAB|3, u.ReadPort(regLCR))
	u.WritePort(regLCR, 3)
	require.Zero(t, u.ReadPort(regIER))
	require.EqualValues(t, 0x5a, u.ReadPort(regSCR))
	u.WritePort(8, 1)
	require.EqualValues(t, 0xff, u.ReadPort(8))
	require.EqualValues(t, 0xff, u.ReadPort(0xffff))
}

func TestSinkThatFails(t *testing.T) {
	broken := errors.New("sink is gone")
	u, _ := newUART(t, writerFunc(func([]byte) (int, error) { return 1, broken }))
	u.WritePort(regData, 'a')
	u.WritePort(regData, 'b')
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.ErrorIs(t, u.Drain(ctx), broken)
	require.LessOrEqual(t, u.Dropped(), uint64(1))
	require.ErrorIs(t, u.Close(), broken)
	require.NoError(t, u.Close())
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCloseWakesWriter(t *testing.T) {
	u, _ := newUART(t, io.Discard)
	done := make(chan error)
	go func() {
		n, err := u.Write(make([]byte, inputSize+1))
		if n != inputSize {
			err = errors.New("wrote past the buffer")
		}
		done <- err
	}()
	for { // until the writer has filled the buffer
		u.mu.Lock()
		full := u.input.free() == 0
		u.mu.Unlock()
		if full {
			break
		}
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, u.Close())
	require.ErrorIs(t, <-done, io.ErrClosedPipe)
	_, err := u.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestDrainEndsWithContext(t *testing.T) {
	out := &sink{gate: make(chan struct{})}
	u, _ := newUART(t, out)
	t.Cleanup(func() { close(out.gate) })
	u.WritePort(regData, 'x')
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, u.Drain(ctx), context.Canceled)
}
