package runtime

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

const (
	// flushEvents is how long an event of an execution may wait for others to be stored
	// with: storing takes some 40 microseconds, so that this bounds it to a hundredth of
	// a CPU, and what a caller loses that is killed to what it did just before.
	flushEvents = 5 * time.Millisecond
	// maxPending is how many may wait; who adds one more stores them all.
	maxPending = 1000
)

// eventQueue gathers events that go with no change of a box, so that an execution
// does not wait for a disk. The zero value is ready.
type eventQueue struct {
	mu     sync.Mutex
	list   []state.Event
	timer  *time.Timer // that will store them; nil while there are none
	writes sync.Mutex  // held while storing, so that flush returns when all is stored; taken before mu
}

// recordLater puts an event in the queue.
func (b *LiteBox) recordLater(kind EventKind, attributes map[string]string) {
	r, q := b.rt, &b.rt.pending
	q.mu.Lock()
	q.list = append(q.list, state.Event{Time: time.Now(), Kind: string(kind), Box: string(b.id), Name: b.Name(), Attributes: attributes})
	full := len(q.list) > maxPending
	if q.timer == nil {
		q.timer = time.AfterFunc(flushEvents, r.flushEvents)
	}
	q.mu.Unlock()
	if full {
		r.flushEvents()
	}
}

// flushEvents stores what is queued, and before it what was counted, if the state is
// open: whoever has a box has opened it, and after Close there is nothing more to
// tell. Who sees the end of a command sees it counted.
func (r *Runtime) flushEvents() {
	r.mu.Lock()
	db := r.db
	r.mu.Unlock()
	if db == nil {
		return
	}
	r.counter.flush(context.Background())
	if err := r.pending.flush(context.Background(), db); err != nil {
		r.opts.Log.Warn("events of executions are lost", "error", err)
	}
}

// flush stores what is queued. Events that cannot be stored are dropped: they are
// not worth failing an execution for, nor keeping memory.
func (q *eventQueue) flush(ctx context.Context, db *state.DB) error {
	q.writes.Lock()
	defer q.writes.Unlock()
	q.mu.Lock()
	list := q.list
	q.list = nil
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	q.mu.Unlock()
	return db.AddEvents(ctx, list)
}

// tellStart tells that an execution has begun.
func (e *Execution) tellStart(cmd BoxCommand) {
	e.box.recordLater(EventExecStart, map[string]string{"execID": e.ID(), "command": strings.Join(cmd.args, " ")})
}

// tellEnd tells once how an execution ended, after it has; not where nobody knows.
func (e *Execution) tellEnd() {
	s, err := e.proc.Wait(context.Background())
	if err != nil {
		return
	}
	res := resultOf(&s)
	e.told.Do(func() {
		e.box.recordLater(EventExecDie, map[string]string{"execID": e.ID(), "exitCode": strconv.Itoa(res.ExitCode)})
	})
}
