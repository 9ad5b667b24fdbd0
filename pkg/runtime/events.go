package runtime

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// EventKind is what happened to a box, in Docker's words.
type EventKind string

// Kinds of events, with their attributes.
const (
	EventCreate    EventKind = "create"     // image
	EventStart     EventKind = "start"      // image; the VM process runs, its guest boots
	EventKill      EventKind = "kill"       // signal: a number was sent to the main command. 9 also when everything in the box is killed; reason, where that took the VM
	EventDie       EventKind = "die"        // the VM is gone. exitCode of the main command, where it is known; reason, unless it was an orderly one
	EventStop      EventKind = "stop"       // the end that die tells of was asked for by Stop
	EventRename    EventKind = "rename"     // oldName
	EventDestroy   EventKind = "destroy"    // removed
	EventExecStart EventKind = "exec_start" // execID, command: Run started a command
	EventExecDie   EventKind = "exec_die"   // execID, exitCode: such a command ended, and the process that started it saw that
)

// eventKinds are all of them.
var eventKinds = []EventKind{
	EventCreate, EventStart, EventKill, EventDie, EventStop, EventRename, EventDestroy, EventExecStart, EventExecDie,
}

// Event is something that happened to a box.
type Event struct {
	Time       time.Time // UTC
	Kind       EventKind
	BoxID      BoxID
	Name       string            // that the box had then, empty for none
	Attributes map[string]string // see the kinds; a text is cut to 256 bytes
}

// EventOptions choose events. Zero values choose all.
type EventOptions struct {
	Since, Until time.Time // inclusive
	// Follow goes on with what happens later, until ctx or Until ends it. Without
	// Since it begins with what happens next.
	Follow bool
	Box    string // id, prefix of one of at least 4 characters, or the name that the box had then
	Kinds  []EventKind
}

const (
	// pollEvents is how often a follower looks for changes, which costs some microseconds.
	pollEvents = 200 * time.Millisecond
	// eventBatch is how many events are read at once.
	eventBatch = 500
)

// Events iterates over what happened to boxes of this home, by any process, in
// the order in which it was recorded. The last 10,000 events are kept, those of
// removed boxes included; a follower that takes longer than so many loses some.
// An error ends the iteration; with Follow that may be ctx's, or ErrInvalidState
// when the runtime is closed.
//
// What changes a box's status is recorded together with that change. Events of
// executions are recorded within 5 milliseconds, and by Close: a caller that is
// killed takes those of its last moment along.
func (r *Runtime) Events(ctx context.Context, opts EventOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := r.eachEvent(ctx, opts, func(e Event) bool { return yield(e, nil) }); err != nil {
			yield(Event{}, err)
		}
	}
}

func (r *Runtime) eachEvent(ctx context.Context, opts EventOptions, each func(Event) bool) error {
	f := state.EventFilter{Since: opts.Since, Until: opts.Until, Box: opts.Box}
	for _, k := range opts.Kinds {
		if !slices.Contains(eventKinds, k) {
			return fail(ErrInvalidArgument, "there is no event %q: choose of %v", k, eventKinds)
		}
		f.Kinds = append(f.Kinds, string(k))
	}
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	r.flushEvents()
	if !opts.Follow {
		_, err := readEvents(ctx, db, &f, each)
		return err
	}
	watch, err := db.Watch(ctx) // before the first look, or what comes in between would be missed
	if err != nil {
		return wrap(ErrDatabase, err, "follow events")
	}
	defer watch.Close()
	if f.Since.IsZero() {
		if f.After, err = db.LastEvent(ctx); err != nil {
			return wrap(ErrDatabase, err, "follow events")
		}
	}
	tick := time.NewTicker(pollEvents)
	defer tick.Stop()
	for changed := true; ; {
		// Before the look: what was recorded up to here is seen by it.
		last := !f.Until.IsZero() && time.Now().After(f.Until.Add(flushEvents))
		if changed || last {
			if more, err := readEvents(ctx, db, &f, each); err != nil || !more {
				return err
			}
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !r.isOpen(db) {
			return fail(ErrInvalidState, "the runtime was closed: events cannot be followed any longer")
		}
		if changed, err = watch.Changed(ctx); err != nil {
			return wrap(ErrDatabase, err, "follow events")
		}
	}
}

// readEvents gives out what there is and moves the filter behind it. No statement
// is open while it does: the caller may use the runtime.
func readEvents(ctx context.Context, db *state.DB, f *state.EventFilter, each func(Event) bool) (more bool, err error) {
	for {
		list, err := db.Events(ctx, *f, eventBatch)
		if err != nil {
			return false, wrap(ErrDatabase, err, "read events")
		}
		for _, e := range list {
			f.After = e.Seq
			if !each(Event{Time: e.Time.UTC(), Kind: EventKind(e.Kind), BoxID: BoxID(e.Box), Name: e.Name, Attributes: e.Attributes}) {
				return false, nil
			}
		}
		if len(list) < eventBatch {
			return true, nil
		}
	}
}

// isOpen reports whether db is still the runtime's.
func (r *Runtime) isOpen(db *state.DB) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.db == db
}
