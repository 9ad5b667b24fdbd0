package main

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// A machine's heartbeat: the host sends a byte now and then, the guest sends it
// back.
//
// The emulator changes its word of pending interrupts without a lock when a
// guest of the guest is entered (QEMU's helper_vmrun), so that a timer's
// interrupt that comes at that moment is lost: it stays requested in the local
// APIC, but nobody tells the CPU. Not so where instructions are counted: there the
// CPU's own thread runs the timers. With a one-shot timer that is the last one
// there ever is. Any other interrupt has the APIC look again, and the heartbeat
// is one.
const (
	beatEvery = 20 * time.Millisecond
	// beatLimit is how long a machine may be silent before it counts as dead. It
	// is long, because the host may be busy with other things.
	beatLimit = 60 * time.Second
)

// heartbeat is the host's side.
type heartbeat struct {
	last atomic.Int64 // unix nanoseconds of the last answer, 0 before the first
	dead chan struct{}
}

// start beats until the connection ends. dead is closed if answers stay out.
func (h *heartbeat) start(conn *net.UnixConn) {
	h.dead = make(chan struct{})
	go func() {
		buf := make([]byte, 64)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			h.last.Store(time.Now().UnixNano())
		}
	}()
	go func() {
		for range time.Tick(beatEvery) {
			conn.SetWriteDeadline(time.Now().Add(beatEvery)) // a guest that is not up yet takes none
			_, err := conn.Write([]byte{1})
			if err != nil && !os.IsTimeout(err) {
				return
			}
			if last := h.last.Load(); last != 0 && time.Since(time.Unix(0, last)) > beatLimit {
				close(h.dead)
				return
			}
		}
	}()
}

// answerBeats is the guest's side. Without it the machine runs, but may hang.
func answerBeats() {
	port, err := openPort("rig.beat", os.O_RDWR)
	if err != nil {
		return
	}
	io.Copy(struct{ io.Writer }{port}, struct{ io.Reader }{port})
}
