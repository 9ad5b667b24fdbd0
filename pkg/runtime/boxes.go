package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/oklog/ulid/v2"
)

// Create makes a box, which costs nothing until it is started: no image is
// pulled and no VM built. name may be empty; a name in use is ErrAlreadyExists.
func (r *Runtime) Create(ctx context.Context, opts BoxOptions, name string) (*LiteBox, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	if name != "" {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := json.Marshal(opts)
	if err != nil {
		return nil, wrap(ErrInternal, err, "store the box's options")
	}
	now := time.Now()
	row := &state.Box{
		ID: ulid.Make().String(), Name: name, CreatedAt: now, UpdatedAt: now, Options: stored,
		Image: opts.Rootfs.String(), Status: string(StatusConfigured), Ephemeral: !opts.KeepOnStop,
	}
	if row.Ephemeral && !opts.Detach {
		// Until it is started it belongs to this process, and goes with it.
		row.PID, row.PIDStart, row.BootID = os.Getpid(), vmm.StartTime(os.Getpid()), state.BootID()
	}
	if err := db.Insert(ctx, row); errors.Is(err, state.ErrExists) {
		return nil, wrap(ErrAlreadyExists, err, "create box %q: choose another name or remove that box", name)
	} else if err != nil {
		return nil, wrap(ErrDatabase, err, "create a box")
	}
	b := &LiteBox{rt: r, id: row.ID, name: name, opts: opts}
	b.times.note(PhaseCreated)
	return b, nil
}

// Get returns the box with this id, unique prefix of an id, or name. None is ErrNotFound.
func (r *Runtime) Get(ctx context.Context, key string) (*LiteBox, error) {
	row, err := r.find(ctx, key)
	if err != nil {
		return nil, err
	}
	return r.open(row)
}

func (r *Runtime) open(row *state.Box) (*LiteBox, error) {
	b := &LiteBox{rt: r, id: row.ID, name: row.Name}
	if err := json.Unmarshal(row.Options, &b.opts); err != nil {
		return nil, wrap(ErrMetadata, err, "options of box %s", row.ID)
	}
	return b, nil
}

// GetInfo returns what is known of a box. None is ErrNotFound.
func (r *Runtime) GetInfo(ctx context.Context, key string) (BoxInfo, error) {
	row, err := r.find(ctx, key)
	if err != nil {
		return BoxInfo{}, err
	}
	return info(row)
}

// Exists reports whether there is a box with this id, prefix or name.
func (r *Runtime) Exists(ctx context.Context, key string) (bool, error) {
	_, err := r.find(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ListInfo returns all boxes, newest first.
func (r *Runtime) ListInfo(ctx context.Context) ([]BoxInfo, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := db.List(ctx)
	if err != nil {
		return nil, wrap(ErrDatabase, err, "list boxes")
	}
	out := make([]BoxInfo, 0, len(rows))
	for _, row := range rows {
		if row, err = r.repair(ctx, row); errors.Is(err, state.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, wrap(ErrDatabase, err, "list boxes")
		}
		i, err := info(row)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// Remove deletes a box and all it holds. A running one is ErrInvalidState, unless
// force stops it first.
func (r *Runtime) Remove(ctx context.Context, key string, force bool) error {
	row, err := r.find(ctx, key)
	if err != nil {
		return err
	}
	b, err := r.open(row)
	if err != nil {
		return err
	}
	if BoxStatus(row.Status).IsActive() {
		if !force {
			return fail(ErrInvalidState, "box %s is %s: stop it first, or force the removal", key, row.Status)
		}
		if err := b.kill(ctx); err != nil {
			return err
		}
	}
	lock, err := lockDir(ctx, r.boxDir(row.ID)) // nobody may be starting it
	if err != nil {
		return wrap(ErrStorage, err, "lock box %s", row.ID)
	}
	defer lock.Close()
	if now, err := r.find(ctx, row.ID); errors.Is(err, ErrNotFound) {
		return wrap(ErrStorage, os.RemoveAll(r.boxDir(row.ID)), "remove box %s", row.ID) // gone when it stopped
	} else if err != nil {
		return err
	} else if BoxStatus(now.Status).IsActive() {
		return fail(ErrInvalidState, "box %s was started meanwhile", key)
	}
	return r.discard(ctx, row.ID)
}

// discard deletes row and folder. The row goes last, so that a crash in between
// leaves something that can be removed again.
func (r *Runtime) discard(ctx context.Context, id string) error {
	if err := os.RemoveAll(r.boxDir(id)); err != nil {
		return wrap(ErrStorage, err, "remove box %s", id)
	}
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	if err := db.Delete(ctx, id); err != nil {
		return wrap(ErrDatabase, err, "remove box %s", id)
	}
	r.releaseImages(ctx)
	return nil
}

func (r *Runtime) find(ctx context.Context, key string) (*state.Box, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	row, err := db.Find(ctx, key)
	if err == nil {
		row, err = r.repair(ctx, row)
	}
	switch {
	case errors.Is(err, state.ErrNotFound):
		return nil, fail(ErrNotFound, "no box has the id or name %q", key)
	case errors.Is(err, state.ErrAmbiguous):
		return nil, fail(ErrInvalidArgument, "several boxes have ids that begin with %q: give more of it", key)
	}
	return row, wrap(ErrDatabase, err, "find box %q", key)
}

func info(row *state.Box) (BoxInfo, error) {
	var o BoxOptions
	if err := json.Unmarshal(row.Options, &o); err != nil {
		return BoxInfo{}, wrap(ErrMetadata, err, "options of box %s", row.ID)
	}
	pid := 0
	if BoxStatus(row.Status).IsActive() {
		pid = row.PID
	}
	return BoxInfo{
		ID: row.ID, Name: row.Name, Status: BoxStatus(row.Status), Reason: row.Reason,
		CreatedAt: row.CreatedAt.UTC(), LastUpdated: row.UpdatedAt.UTC(), PID: pid,
		Image: row.Image, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, Labels: o.Labels,
	}, nil
}
