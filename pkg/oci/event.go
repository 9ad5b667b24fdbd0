package oci

import (
	"sync"
	"time"
)

// State is where a layer (or the image) is on its way into the store.
type State string

// States of an Event. Resolving, Cached and Done also occur for the image as
// a whole, with an empty Layer.
const (
	Resolving   State = "resolving"
	Waiting     State = "waiting" // for another process that is fetching the same layer
	Downloading State = "downloading"
	Extracting  State = "extracting"
	Writing     State = "writing" // into an archive
	Cached      State = "cached"
	Done        State = "done"
)

// Event tells how a pull is getting on.
type Event struct {
	// Reference is the image's normalised name.
	Reference string
	// Layer is the layer's digest; empty: the event is about the image.
	Layer Digest
	State State
	// Current and Total are bytes of the blob as distributed; Total is 0
	// where it is not known. While Waiting they tell of the other process.
	Current, Total int64
}

// eventEvery is how often the byte count of one layer is reported.
const eventEvery = 100 * time.Millisecond

// events serialises the callback: it is called by one goroutine at a time and
// never after the pull has returned.
type events struct {
	mu   sync.Mutex
	fn   func(Event)
	ref  string
	last map[Digest]Event
	when map[Digest]time.Time
}

func newEvents(fn func(Event), ref string) *events {
	return &events{fn: fn, ref: ref, last: map[Digest]Event{}, when: map[Digest]time.Time{}}
}

// send reports a change of state at once and a mere change of bytes at most
// every eventEvery.
func (e *events) send(layer Digest, st State, current, total int64) {
	if e == nil || e.fn == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ev := Event{Reference: e.ref, Layer: layer, State: st, Current: current, Total: total}
	old, seen := e.last[layer]
	now := time.Now()
	if seen && old.State == st && (old == ev || now.Sub(e.when[layer]) < eventEvery) {
		return
	}
	e.last[layer], e.when[layer] = ev, now
	e.fn(ev)
}
