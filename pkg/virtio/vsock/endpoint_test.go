package vsock

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func control(o op, flags, n, alloc, fwd uint32) *header {
	var h header
	h.setOp(typeStream, o, flags, n)
	h.setCredit(alloc, fwd)
	return &h
}

// established is an endpoint whose guest has accepted.
func established() *endpoint {
	e := new(endpoint)
	e.dial(1000)
	e.next()
	e.receive(control(opResponse, 0, 0, 500, 0))
	return e
}

func TestEndpointPackets(t *testing.T) {
	dialing := func() *endpoint { e := new(endpoint); e.dial(1000); e.next(); return e }
	undialed := func() *endpoint { e := new(endpoint); e.dial(1000); return e }
	accepted := func() *endpoint {
		e := new(endpoint)
		e.accept(1000, control(opRequest, 0, 0, 500, 0))
		return e
	}
	shut := func(flags uint8) func() *endpoint {
		return func() *endpoint { e := established(); e.shutdown(flags); e.next(); return e }
	}
	guestShut := func(flags uint32) func() *endpoint {
		return func() *endpoint {
			e := established()
			e.receive(control(opShutdown, flags, 0, 500, 0))
			return e
		}
	}
	full := func() *endpoint {
		e := established()
		e.receive(control(opData, 0, 1000, 500, 0))
		return e
	}
	for _, c := range []struct {
		name  string
		e     func() *endpoint
		h     *header
		got   outcome
		state state
	}{
		{"connecting: response", dialing, control(opResponse, 0, 0, 9, 0), gotOpened | gotCredit, stateOpen},
		{"connecting: response without room", dialing, control(opResponse, 0, 0, 0, 0), gotOpened, stateOpen},
		{"connecting: reset", dialing, control(opReset, 0, 0, 0, 0), gotReset, stateDead},
		{"connecting: data", dialing, control(opData, 0, 1, 9, 0), gotBreach, stateDead},
		{"connecting: request", dialing, control(opRequest, 0, 0, 9, 0), gotBreach, stateDead},
		{"connecting: shutdown", dialing, control(opShutdown, 3, 0, 9, 0), gotBreach, stateDead},
		{"connecting: response before the request left", undialed, control(opResponse, 0, 0, 9, 0), gotBreach, stateDead},
		{"accepted: data before the response left", accepted, control(opData, 0, 1, 500, 0), gotData, stateOpen},
		{"accepted: request again", accepted, control(opRequest, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: data", established, control(opData, 0, 1000, 500, 0), gotData, stateOpen},
		{"open: empty data", established, control(opData, 0, 0, 500, 0), gotData, stateOpen},
		{"open: data beyond credit", established, control(opData, 0, 1001, 500, 0), gotBreach, stateDead},
		{"open: all of 2^32-1 bytes", established, control(opData, 0, math.MaxUint32, 500, 0), gotBreach, stateDead},
		{"full: one byte", full, control(opData, 0, 1, 500, 0), gotBreach, stateDead},
		{"full: nothing", full, control(opData, 0, 0, 500, 0), gotData, stateOpen},
		{"open: response", established, control(opResponse, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: request", established, control(opRequest, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: op 0", established, control(0, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: op 8", established, control(8, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: op 65535", established, control(65535, 0, 0, 500, 0), gotBreach, stateDead},
		{"open: credit update", established, control(opCreditUpdate, 0, 0, 500, 0), 0, stateOpen},
		{"open: credit request", established, control(opCreditRequest, 0, 0, 500, 0), 0, stateOpen},
		{"open: reset", established, control(opReset, 0, 0, 0, 0), gotReset, stateDead},
		{"open: shutdown of nothing", established, control(opShutdown, 0, 0, 500, 0), 0, stateOpen},
		{"open: unknown shutdown flags", established, control(opShutdown, 0xfffffffc, 0, 500, 0), 0, stateOpen},
		{"open: will not send", established, control(opShutdown, shutSend, 0, 500, 0), gotShutdown, stateOpen},
		{"open: will not receive", established, control(opShutdown, shutReceive, 0, 500, 0), gotShutdown, stateOpen},
		{"open: neither", established, control(opShutdown, shutBoth, 0, 500, 0), gotShutdown | gotFinished, stateDead},
		{"will not send: sends", guestShut(shutSend), control(opData, 0, 1, 500, 0), gotBreach, stateDead},
		{"will not send: says so again", guestShut(shutSend), control(opShutdown, shutSend, 0, 500, 0), 0, stateOpen},
		{"will not send: nor receive", guestShut(shutSend), control(opShutdown, shutReceive, 0, 500, 0), gotShutdown | gotFinished, stateDead},
		{"will not receive: sends", guestShut(shutReceive), control(opData, 0, 1, 500, 0), gotData, stateOpen},
		{"we do not send: data", shut(shutSend), control(opData, 0, 1, 500, 0), gotData, stateOpen},
		{"we do not receive: data", shut(shutReceive), control(opData, 0, 1, 500, 0), gotDiscard, stateOpen},
		{"we do not send: guest neither", shut(shutSend), control(opShutdown, shutSend, 0, 500, 0), gotShutdown, stateOpen},
		{"closing: data", shut(shutBoth), control(opData, 0, 1, 500, 0), gotDiscard, stateClosing},
		{"closing: shutdown", shut(shutBoth), control(opShutdown, shutBoth, 0, 500, 0), gotShutdown | gotFinished, stateDead},
		{"closing: reset", shut(shutBoth), control(opReset, 0, 0, 0, 0), gotReset, stateDead},
		{"closing: response", shut(shutBoth), control(opResponse, 0, 0, 500, 0), gotBreach, stateDead},
	} {
		e := c.e()
		require.Equal(t, c.got, e.receive(c.h), c.name)
		require.Equal(t, c.state, e.state, c.name)
		if e.state == stateDead {
			require.Zero(t, e.owes, c.name)
			require.False(t, e.maySend(), c.name)
		}
	}
}

func TestEndpointOwes(t *testing.T) {
	e := new(endpoint)
	e.dial(1000)
	pay := func(want ...op) {
		t.Helper()
		for _, w := range want {
			o, _, ok := e.next()
			require.True(t, ok)
			require.Equal(t, w, o)
			e.stamp(new(header))
		}
		_, _, ok := e.next()
		require.False(t, ok)
	}
	pay(opRequest)
	e.receive(control(opResponse, 0, 0, 10, 0))
	pay()
	for range 5 {
		e.receive(control(opCreditRequest, 0, 0, 10, 0))
	}
	pay(opCreditUpdate)
	e.receive(control(opData, 0, 1000, 10, 0))
	e.passedOn(499)
	pay()
	e.passedOn(1)
	pay(opCreditUpdate)
	e.passedOn(500)
	e.shutdown(shutSend)
	e.shutdown(shutSend)
	pay(opShutdown)
	require.Equal(t, e.fwdCnt, e.toldFwd, "each packet carries credit")
	e.shutdown(shutReceive)
	require.Equal(t, stateClosing, e.state)
	_, flags, _ := e.next()
	require.EqualValues(t, shutBoth, flags)
	pay()
	e.shutdown(shutBoth)
	pay()
}

func TestCreditArithmetic(t *testing.T) {
	const top = 1<<32 - 100 // all counters pass 2^32
	for _, start := range []uint32{0, top, math.MaxUint32} {
		e := established()
		e.txCnt, e.peerFwd = start, start
		e.rxCnt, e.fwdCnt, e.toldFwd = start, start, start
		update := func(alloc, fwd uint32) bool {
			return e.receive(control(opCreditUpdate, 0, 0, alloc, start+fwd))&gotCredit != 0
		}
		require.EqualValues(t, 500, e.window())
		e.txCnt += 500
		require.Zero(t, e.window())
		require.False(t, update(500, 0))
		require.True(t, update(500, 200))
		require.EqualValues(t, 200, e.window())
		require.False(t, update(500, 100), "an older packet")
		require.EqualValues(t, 200, e.window())
		require.False(t, update(500, 501), "more than was sent")
		require.EqualValues(t, 200, e.window())
		require.False(t, update(100, 200), "a smaller buffer")
		require.Zero(t, e.window())
		require.False(t, update(0, 500))
		require.True(t, update(math.MaxUint32, 500))
		require.EqualValues(t, math.MaxUint32, e.window())
		for range 10 { // our own window, across the wrap as well
			require.Equal(t, gotData, e.receive(control(opData, 0, 600, math.MaxUint32, start+500)))
			e.passedOn(600)
			_, _, ok := e.next()
			require.True(t, ok)
			e.stamp(new(header))
		}
		require.Equal(t, start+6000, e.toldFwd)
	}
}
