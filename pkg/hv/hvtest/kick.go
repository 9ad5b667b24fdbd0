package hvtest

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

var kickTests = []test{
	{"KickBefore", testKickBefore},
	{"KickSpinning", func(t *testing.T, s *suite) { testKicks(t, s, x86Spin, 40_000) }},
	{"KickExiting", func(t *testing.T, s *suite) { testKicks(t, s, x86PortLoop, 40_000) }},
	{"KickHalted", func(t *testing.T, s *suite) { testKicks(t, s, x86Halt, 20_000) }},
	{"KickStorm", testKickStorm},
	{"KickWaiting", testKickWaiting},
}

// testKickBefore: a kick waits for the next Run, and is used up by it.
func testKickBefore(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86PortLoop, 0)
	for range 100 {
		for range 3 { // may merge: one exit for sure, and no more than three
			require.NoError(t, m.cpu.Kick())
		}
		require.Equal(t, hv.ExitKicked, m.run().Reason)
		kicked := 1
		for m.run().Reason == hv.ExitKicked {
			kicked++
		}
		require.LessOrEqual(t, kicked, 3)
		require.Equal(t, hv.ExitPIO, m.exit.Reason)
	}
}

// testKicks kicks n times from another thread, each time when the exit of the
// kick before was seen. A lost one stops it for good.
func testKicks(t *testing.T, s *suite, guest []byte, n int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(4, runtime.NumCPU())))
	m := newMachine(t, s, 1)
	m.start32(guest, 0)
	seen := newBaton(t)
	done := make(chan error, 1)
	go func() {
		urgent()
		for range n {
			if err := errors.Join(m.cpu.Kick(), seen.wait()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := 0; i < n; {
		switch m.run().Reason {
		case hv.ExitKicked:
			i++
			require.NoError(t, seen.pass())
		case hv.ExitPIO:
		case hv.ExitHalt: // no interrupt controller in the backend: its caller waits
		default:
			t.Fatalf("%d kicks seen, then %+v", i, m.exit)
		}
	}
	require.NoError(t, <-done)
}

// testKickStorm kicks as fast as it can, without waiting, while the guest exits
// all the time: a Run that begins after a kick must see it, or have seen one
// that followed it.
func testKickStorm(t *testing.T, s *suite) {
	const storm = 20_000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(4, runtime.NumCPU())))
	m := newMachine(t, s, 1)
	m.start32(x86PortLoop, 0)
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		for range storm {
			if err := m.cpu.Kick(); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
		done <- nil
	}()
	seen, merged := int64(0), int64(0)
	for quiet := 0; quiet < 2; {
		before := sent.Load()
		switch m.run().Reason {
		case hv.ExitKicked:
			seen++
			merged = sent.Load() + 1 // one may be sent and not yet counted
		case hv.ExitPIO:
			if before > merged {
				t.Fatalf("%d kicks before Run, at most %d of them merged into the last exit, and Run returns %+v", before, merged, m.exit)
			}
			if before == storm {
				quiet++
			}
		default:
			t.Fatalf("%+v", m.exit)
		}
	}
	require.NoError(t, <-done)
	require.Positive(t, seen)
	require.LessOrEqual(t, seen, int64(storm))
}

// testKickWaiting kicks a secondary CPU that nobody has started yet: the way
// to end its thread.
func testKickWaiting(t *testing.T, s *suite) {
	m := newMachine(t, s, 2)
	second := make(chan hv.VCPU, 1)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		c, err := m.vm.NewVCPU(1)
		second <- c
		if err != nil {
			done <- err
			return
		}
		for range 3 {
			var e hv.Exit
			if err = c.Run(&e); err == nil && e.Reason != hv.ExitKicked {
				err = fmt.Errorf("%+v", e)
			}
			done <- err
		}
		done <- c.Close()
	}()
	c := <-second
	for range 3 {
		require.NotNil(t, c)
		time.Sleep(time.Millisecond) // most likely it waits by now
		require.NoError(t, c.Kick())
		require.NoError(t, <-done)
	}
	require.NoError(t, <-done)
}
