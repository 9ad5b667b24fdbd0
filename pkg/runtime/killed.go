package runtime

import (
	"context"
	"strconv"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Why a VM was killed by this package, in the words of events and errors.
const (
	killedRemoved  = "its VM was killed, as it was removed by force"
	killedShutdown = "its VM was killed, as the program that started it ended and could wait no longer"
)

// killed records that everything in the box is about to be killed for its user, who
// may just have begun with the main command.
func (b *LiteBox) killed(ctx context.Context, row *state.Box) error {
	last, err := b.rt.lastKill(ctx, string(b.id))
	if err == nil && last != nil && last["signal"] == strconv.Itoa(sigKill) {
		return nil
	}
	return b.killing(ctx, row, "")
}

// killing records that the box's VM, named by row, is about to be killed, so that
// whoever finds it gone knows why. The box's status stays: only the end of the VM
// changes it, or a caller that dies in between would leave a lie.
func (b *LiteBox) killing(ctx context.Context, row *state.Box, why string) error {
	attributes := map[string]string{"signal": strconv.Itoa(sigKill)}
	if why != "" {
		attributes["reason"] = why
	}
	return b.changeActive(ctx, row, func(r *state.Box) { r.Record(string(EventKill), attributes) })
}

// killedFor is why this package killed the VM of a box, whoever called it; empty
// where it did not.
func (r *Runtime) killedFor(ctx context.Context, id string) string {
	last, err := r.lastKill(ctx, id)
	if err != nil {
		return "" // there is another reason, if a poorer one
	}
	return last["reason"]
}

// lastKill is what is known of the last kill of a box since its start, nil for none.
func (r *Runtime) lastKill(ctx context.Context, id string) (map[string]string, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	last, err := db.Events(ctx, state.EventFilter{Box: id, Kinds: []string{string(EventStart), string(EventKill)}, Newest: true}, 1)
	if err != nil || len(last) == 0 || last[0].Kind != string(EventKill) {
		return nil, err
	}
	return last[0].Attributes, nil
}
