package virtio

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// long is a time in which no test ends.
const long = 1000 * time.Hour

// teller counts what the driver hears.
type teller int

func (t *teller) tell() { *t++ }

func TestBatchEndsWhenFull(t *testing.T) {
	var b Batch
	var told teller
	for range 3 {
		b.Start()
		told = 0
		for i := range 2 * batch {
			b.since += long // no request is slow
			b.turn.last = long
			b.Done(told.tell)
			require.EqualValues(t, (i+1)/batch, told, "request %d", i)
		}
	}
}

func TestBatchEndsWithASlowRequest(t *testing.T) {
	var b Batch
	var told teller
	b.turn.last = long
	b.Start()
	b.since -= patient + 1
	b.Done(told.tell)
	require.EqualValues(t, 1, told)
	b.since += long
	b.Done(told.tell)
	require.EqualValues(t, 1, told, "the next batch has begun")
}

// yields counts how often, of a hundred times, a goroutine that do starts has run
// when do returns. With one P that is when do went through the scheduler, nearly
// always.
func yields(do func(run func())) (n int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 100 {
		var ran atomic.Bool
		do(func() { go ran.Store(true) })
		if ran.Load() {
			n++
		}
	}
	return n
}

// TestBatchTellsBeforeItYields: what is finished does not wait for other goroutines.
func TestBatchTellsBeforeItYields(t *testing.T) {
	require.Greater(t, yields(func(run func()) {
		b := Batch{since: long, turn: Turn{last: -long, rounds: turnBusy}}
		told := false
		b.Done(func() {
			told = true
			run()
		})
		require.True(t, told)
		require.Less(t, b.since, long, "the next batch is counted from after")
	}), 50)
}

func TestTurn(t *testing.T) {
	var turn Turn
	at := 10 * turnEvery
	require.False(t, turn.due(at), "the first round after long starts the time")
	require.False(t, turn.due(at+turnEvery/2))
	require.False(t, turn.due(at+turnEvery-1), "not yet")
	require.True(t, turn.due(at+turnEvery))
	require.False(t, turn.due(at+3*turnEvery), "one round in that time is not busy")
}

func TestTurnYields(t *testing.T) {
	require.Greater(t, yields(func(run func()) {
		run()
		turn := Turn{last: -long, rounds: turnBusy}
		turn.Take()
	}), 50)
	require.Less(t, yields(func(run func()) {
		run()
		var turn Turn
		turn.Take()
	}), 50, "the test sees no yield where there is none")
}
