package runtime

import (
	"context"
	"iter"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// EventKind is what an event is about, by Docker's words.
type EventKind string

// Kinds of events.
const (
	EventCreate  EventKind = state.EventCreate
	EventStart   EventKind = state.EventStart
	EventStop    EventKind = state.EventStop    // somebody asked for it
	EventDie     EventKind = state.EventDie     // the VM has ended; attributes exitCode and reason, where known
	EventRename  EventKind = state.EventRename  // attribute oldName
	EventDestroy EventKind = state.EventDestroy // removed
)

// Event is something that happened to a box of the home, whichever process did it.
type Event struct {
	ID         int64 // ascending
	Time       time.Time
	Kind       EventKind
	BoxID      BoxID
	Name       string // of the box at that time
	Image      string
	Attributes map[string]string
}

// EventOptions select events. The zero value selects all that the home remembers,
// the last 10,000.
type EventOptions struct {
	Since, Until time.Time
	Box          string // id, prefix or name of a box; of one that is gone the whole id
	Kinds        []EventKind
	Follow       bool // go on with what happens from now on, until ctx ends or Until has passed
}

const (
	eventBatch = 256
	eventPoll  = 200 * time.Millisecond
)

// Events iterates over what happened, oldest first. An error ends the iteration;
// the end of ctx, with Follow, is none.
func (r *Runtime) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := r.events(ctx, o, func(e Event) bool { return yield(e, nil) }); err != nil && !(o.Follow && ctx.Err() != nil) {
			yield(Event{}, err)
		}
	}
}

func (r *Runtime) events(ctx context.Context, o EventOptions, yield func(Event) bool) error {
	f := state.EventFilter{Since: o.Since, Until: o.Until}
	for _, k := range o.Kinds {
		f.Kinds = append(f.Kinds, string(k))
	}
	if o.Box != "" {
		if id, ok := ParseBoxID(o.Box); ok {
			f.Box = string(id)
		} else if row, err := r.find(ctx, o.Box); err != nil {
			return err
		} else {
			f.Box = row.ID
		}
	}
	for {
		db, err := r.state(ctx)
		if err != nil {
			return err
		}
		// Before the look, or an event in between would be missed.
		last, err := db.LastEvent(ctx)
		if err != nil {
			return wrap(ErrDatabase, err, "read events")
		}
		list, err := db.Events(ctx, f, eventBatch)
		if err != nil {
			return wrap(ErrDatabase, err, "read events")
		}
		for _, e := range list {
			f.After = e.ID
			if !yield(Event{e.ID, e.At.UTC(), EventKind(e.Kind), BoxID(e.Box), e.Name, e.Image, e.Attrs}) {
				return nil
			}
		}
		if len(list) == eventBatch {
			continue
		}
		if !o.Follow || !o.Until.IsZero() && time.Now().After(o.Until) {
			return nil
		}
		if err := r.awaitEvent(ctx, last, o.Until); err != nil {
			return err
		}
	}
}

// awaitEvent returns when there is an event after this one, or until has passed.
func (r *Runtime) awaitEvent(ctx context.Context, after int64, until time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(eventPoll):
		}
		db, err := r.state(ctx)
		if err != nil {
			return err
		}
		last, err := db.LastEvent(ctx)
		if err != nil {
			return wrap(ErrDatabase, err, "read events")
		}
		if last > after || !until.IsZero() && time.Now().After(until) {
			return nil
		}
	}
}
