package runtime

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// counter collects what this process counts, and writes it to the state a moment
// later, so that no command waits for that: with the next events of executions, or
// after countDelay. A process that is killed loses what it counted in that moment.
type counter struct {
	rt *Runtime

	writing sync.Mutex // held by flush, so that whoever reads after one sees everything
	mu      sync.Mutex
	pending map[string]map[string]int64 // by box id, then counter
	timer   *time.Timer
}

// countDelay is how long counts may wait to be written.
const countDelay = 100 * time.Millisecond

func (c *counter) add(id BoxID, name string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		c.pending = map[string]map[string]int64{}
	}
	if c.pending[string(id)] == nil {
		c.pending[string(id)] = map[string]int64{}
	}
	c.pending[string(id)][name] += n
	if c.timer == nil {
		c.timer = time.AfterFunc(countDelay, func() { c.flush(context.Background()) })
	}
}

// flush writes what is pending. What cannot be written now is kept for the next time.
func (c *counter) flush(ctx context.Context) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	list := c.pending
	c.pending = nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()
	if len(list) == 0 {
		return
	}
	db, err := c.rt.state(ctx)
	if err == nil {
		err = db.Count(ctx, list)
	}
	if err == nil || c.rt.isClosed() {
		return
	}
	c.rt.opts.Log.Warn("write counters", "error", err)
	for box, delta := range list {
		for name, n := range delta {
			c.add(BoxID(box), name, n)
		}
	}
}

// countRun counts a command that was started, or could not be.
func (b *LiteBox) countRun(err error) {
	b.rt.counter.add(b.id, state.CounterCommands, 1)
	if err != nil {
		b.rt.counter.add(b.id, state.CounterErrors, 1)
	}
}

// countedInput counts what goes into a command.
type countedInput struct {
	io.WriteCloser
	count func(n int64)
}

func (w *countedInput) Write(p []byte) (int, error) {
	n, err := w.WriteCloser.Write(p)
	w.count(int64(n))
	return n, err
}

// ReadFrom implements [io.ReaderFrom]: where both ends are files or sockets, the
// kernel moves the bytes.
func (w *countedInput) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.WriteCloser, r)
	w.count(n)
	return n, err
}
