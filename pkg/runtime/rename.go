package runtime

import (
	"context"
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Rename gives the box with this id, unique prefix of an id, or name another
// name. A name in use is ErrAlreadyExists, none to rename ErrNotFound. Handles
// that are open keep the name they were opened with, and a guest that runs its
// host name.
func (r *Runtime) Rename(ctx context.Context, key, name string) error {
	if err := checkName(name); err != nil {
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
	switch err := db.Rename(ctx, row.ID, name); {
	case errors.Is(err, state.ErrExists):
		return wrap(ErrAlreadyExists, err, "rename box %q to %q: choose another name or rename that box first", key, name)
	case errors.Is(err, state.ErrNotFound):
		return fail(ErrNotFound, "no box has the id or name %q", key)
	default:
		return wrap(ErrDatabase, err, "rename box %q", key)
	}
}
