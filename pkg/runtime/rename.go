package runtime

import (
	"context"
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Rename gives a box another name. One in use is ErrAlreadyExists. The host name
// in a running box stays what it was until the next start. Handles that are held
// keep the old name in their texts.
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
		return wrap(ErrAlreadyExists, err, "rename box %s to %q: choose another name or remove that box", key, name)
	case errors.Is(err, state.ErrNotFound):
		return fail(ErrNotFound, "no box has the id or name %q", key)
	default:
		return wrap(ErrDatabase, err, "rename box %s", key)
	}
}
