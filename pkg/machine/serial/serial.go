// Package serial is a 16550A UART (National Semiconductor PC16550D data sheet,
// cited as PC16550D), as PCs have at COM1: good enough for Linux's 8250 driver
// to detect and trust. Baud rate and framing are accepted and ignored; bytes
// leave at once.
//
// Neither side can make the other wait or the VMM grow: what the guest writes
// goes through a bounded buffer to the sink and is dropped and counted when the
// sink is slower; what the host writes waits in a bounded buffer, and its writer
// with it.
package serial

import (
	"context"
	"io"
	"sync"
	"time"
)

// Sizes in bytes.
const (
	outputSize = 64 << 10 // output that a slow sink may be behind
	inputSize  = 64 << 10 // input that waits for the guest
	fifoSize   = 16       // PC16550D §8.0
)

// gather is how long output may wait for more, so that a line of text costs
// one wake-up and one write instead of one for each byte.
const gather = time.Millisecond

// UART is one serial port. Its methods may be called from any goroutine.
type UART struct {
	irq func(level bool)

	mu   sync.Mutex
	regs registers
	line bool // level of the interrupt line

	input   ring          // from the host, not yet in the receiver FIFO
	room    *sync.Cond    // input has room, or closed
	output  ring          // to the sink
	busy    bool          // the sink has bytes that have left output
	changed *sync.Cond    // output has bytes or has become empty, or closed
	hurry   chan struct{} // output should wait no longer
	dropped uint64
	sinkErr error
	closed  bool
}

// New returns a UART in its state after reset, and starts the goroutine that
// feeds out until Close. Irq drives the interrupt line; it is called with a lock
// held, on changes only, in order, and must neither block nor call the UART.
func New(out io.Writer, irq func(level bool)) *UART {
	u := &UART{irq: irq, input: newRing(inputSize), output: newRing(outputSize), hurry: make(chan struct{}, 1)}
	u.room = sync.NewCond(&u.mu)
	u.changed = sync.NewCond(&u.mu)
	go u.feed(out)
	return u
}

// Write queues input for the guest. It waits while the buffer is full, and ends
// with io.ErrClosedPipe once the UART is closed. Bytes reach the guest when it
// has raised DTR or RTS, so that what is typed before its driver is up survives
// the FIFO resets of the driver's start.
func (u *UART) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	done := 0
	for !u.closed {
		done += u.input.put(p[done:])
		u.receive()
		u.interrupt()
		if done == len(p) {
			return done, nil
		}
		if u.input.free() == 0 {
			u.room.Wait()
		}
	}
	return done, io.ErrClosedPipe
}

// Dropped is the number of output bytes lost because the sink was too slow or
// refused them.
func (u *UART) Dropped() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dropped
}

// Drain waits until the sink has all output so far, or ctx ends, or the UART is
// closed, and returns the error of the sink or of ctx.
func (u *UART) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.changed.Broadcast()
	})
	defer stop()
	u.mu.Lock()
	defer u.mu.Unlock()
	for (u.output.len() > 0 || u.busy) && !u.closed {
		u.rush()
		if err := ctx.Err(); err != nil {
			return err
		}
		u.changed.Wait()
	}
	return u.sinkErr
}

// Close ends the output; what Drain did not wait for is dropped. It does not
// wait for a sink that blocks: the goroutine behind it ends when the sink
// returns. The guest may go on using the registers. Closing twice is harmless.
func (u *UART) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil
	}
	u.closed = true
	u.dropped += uint64(u.output.len())
	u.output.clear()
	u.room.Broadcast()
	u.changed.Broadcast()
	u.rush()
	return u.sinkErr
}

// rush ends the feeding goroutine's wait for more output.
func (u *UART) rush() {
	select {
	case u.hurry <- struct{}{}:
	default: // told already
	}
}

// send takes a byte from the guest. Preconditions: u.mu held.
func (u *UART) send(c byte) {
	if u.closed || !u.output.putByte(c) {
		u.dropped++
		return
	}
	switch u.output.len() {
	case 1:
		u.changed.Broadcast()
	case outputSize / 4:
		u.rush()
	}
}

// feed hands output to the sink, as much at a time as there is.
func (u *UART) feed(out io.Writer) {
	buf := make([]byte, outputSize)
	wait := time.NewTimer(gather)
	defer wait.Stop()
	u.mu.Lock()
	defer u.mu.Unlock()
	for {
		for u.output.len() == 0 && !u.closed {
			u.changed.Wait()
		}
		if u.closed {
			return
		}
		if u.output.len() < outputSize/4 {
			u.mu.Unlock()
			wait.Reset(gather)
			select {
			case <-wait.C:
			case <-u.hurry:
			}
			u.mu.Lock()
		}
		n := u.output.get(buf)
		u.busy = n > 0
		u.mu.Unlock()
		wrote, err := n, error(nil)
		if n > 0 { // else Close was quicker
			wrote, err = out.Write(buf[:n])
		}
		u.mu.Lock()
		u.busy = false
		if err != nil {
			u.sinkErr = err
			u.dropped += uint64(n - min(max(wrote, 0), n))
		}
		if u.output.len() == 0 {
			u.changed.Broadcast()
		}
	}
}
