package runtime

import (
	"context"
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Rename gives a box another name, whatever it is doing. A name that Create would refuse
// is refused here, too. The guest of a running box keeps its host name until the box
// is started again. Handles to the box learn of it when they next look at the
// box's state: Info knows at once.
func (r *Runtime) Rename(ctx context.Context, key, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	row, err := r.find(ctx, key)
	if err != nil {
		return err
	}
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	found := row.Name
	_, err = db.Update(ctx, row.ID, func(row *state.Box) error {
		if key == found && row.Name != found {
			return state.ErrNotFound // no box has that name any more: another process gave it a new one
		}
		if row.Name == name {
			return nil
		}
		row.Record(string(EventRename), map[string]string{"oldName": row.Name})
		row.Name = name
		return nil
	})
	if refused := r.nameRefused(ctx, name, err); refused != nil {
		return refused
	}
	if errors.Is(err, state.ErrNotFound) {
		return fail(ErrNotFound, "box %q was removed or renamed meanwhile", key)
	}
	return wrap(ErrDatabase, err, "rename box %q", key)
}
