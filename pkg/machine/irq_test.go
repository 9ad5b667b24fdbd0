package machine

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

// pin is an interrupt line with a guest that, at each edge, looks at what the
// devices have done, as a handler does.
type pin struct {
	hv.VM
	mu   sync.Mutex
	high bool
	look func()
}

func (p *pin) SetIRQ(_ uint32, level bool) error {
	defer runtime.Gosched() // others come between rise and fall
	p.mu.Lock()
	defer p.mu.Unlock()
	if level && !p.high {
		p.look()
	}
	p.high = level
	return nil
}

// TestPulsesAtOnce: whatever was done before a pulse is seen by an edge, however
// many devices pulse the line at the same time.
func TestPulsesAtOnce(t *testing.T) {
	const devices, rounds = 8, 5000
	var done, seen [devices]atomic.Int64
	p := &pin{look: func() {
		for i := range done {
			seen[i].Store(done[i].Load())
		}
	}}
	l := &irqLine{vm: p, gsi: 5}
	for range rounds {
		var all sync.WaitGroup
		for i := range done {
			all.Go(func() {
				done[i].Add(1)
				l.pulse()
			})
		}
		all.Wait()
		for i := range done {
			require.Equal(t, done[i].Load(), seen[i].Load(), "device %d", i)
		}
	}
	require.False(t, p.high)
	require.Zero(t, l.asked.Load())
}

func TestPulseIsOneEdge(t *testing.T) {
	edges := 0
	l := &irqLine{vm: &pin{look: func() { edges++ }}}
	for i := range 10 {
		l.pulse()
		require.Equal(t, i+1, edges)
	}
}

// TestPulseEnds: a caller does not give the edges of a guest that never stops asking.
func TestPulseEnds(t *testing.T) {
	var l *irqLine
	var edges, more atomic.Int64
	more.Store(100_000)
	p := &pin{look: func() {
		edges.Add(1)
		if more.Add(-1) > 0 {
			l.asked.Add(1) // as a pulse of somebody else's does
		}
	}}
	l = &irqLine{vm: p}
	l.pulse()
	require.Positive(t, more.Load(), "the call went on for as long as it was asked to")
	l.settle()
	require.EqualValues(t, 100_000, edges.Load(), "and every edge was given")
}
