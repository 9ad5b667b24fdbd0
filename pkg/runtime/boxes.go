package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// Create makes a box, which costs nothing until it is started: no image is
// pulled and no VM built. name may be empty; a name in use is ErrAlreadyExists, and one
// that the id of another box begins with, which would hide that box, ErrInvalidArgument.
func (r *Runtime) Create(ctx context.Context, opts BoxOptions, name string) (*LiteBox, error) {
	if err := r.checkOpen(); err != nil {
		return nil, err
	}
	if err := opts.fill(); err != nil {
		return nil, err
	}
	if err := r.checkCapture(&opts); err != nil {
		return nil, err
	}
	if name != "" {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	stored := storedOptions{BoxOptions: opts}
	if opts.Main != nil {
		stored.Command = opts.Main.resolve(imageConfig{}) // what the image adds is not known yet
	}
	options, err := stored.marshal()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	row := &state.Box{
		ID: string(NewBoxID()), ContainerID: string(NewContainerID()), Name: name, CreatedAt: now, UpdatedAt: now, Options: options,
		Image: opts.Rootfs.String(), Status: string(StatusConfigured), Ephemeral: !opts.KeepOnStop,
	}
	if row.Ephemeral && !opts.Detach {
		// Until it is started it belongs to this process, and goes with it.
		row.PID, row.PIDStart, row.BootID = os.Getpid(), vmm.StartTime(os.Getpid()), state.BootID()
	}
	row.Volumes = opts.namedVolumes(now)
	row.Record(string(EventCreate), map[string]string{"image": row.Image})
	r.reach(stepInsert)
	if err := db.Insert(ctx, row); err != nil {
		if refused := r.nameRefused(ctx, name, err); refused != nil {
			return nil, refused
		}
		return nil, wrap(ErrDatabase, err, "create a box")
	}
	b := newLiteBox(r, BoxID(row.ID), name)
	b.opts = opts
	if f := opts.Network.Decide; f != nil {
		r.mu.Lock()
		r.decide[b.id] = f
		r.mu.Unlock()
	}
	b.times.note(PhaseCreated)
	r.reach(stepCreated)
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
	b := newLiteBox(r, BoxID(row.ID), row.Name)
	if err := json.Unmarshal(row.Options, &b.opts); err != nil {
		return nil, wrap(ErrMetadata, err, "options of box %s", row.ID)
	}
	r.mu.Lock()
	b.opts.Network.Decide = r.decide[b.id]
	r.mu.Unlock()
	return b, nil
}

// GetInfo returns what is known of a box. None is ErrNotFound.
func (r *Runtime) GetInfo(ctx context.Context, key string) (BoxInfo, error) {
	row, err := r.find(ctx, key)
	if err != nil {
		return BoxInfo{}, err
	}
	return r.info(row), nil
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
		out = append(out, r.info(row))
	}
	return out, nil
}

// Remove deletes a box and all it holds. A running one is ErrInvalidState, unless
// force stops it first.
func (r *Runtime) Remove(ctx context.Context, key string, force bool) error {
	return r.RemoveWith(ctx, key, RemoveOptions{Force: force})
}

// RemoveOptions say how [Runtime.RemoveWith] removes a box.
type RemoveOptions struct {
	Force bool // kill it if it runs
	// Volumes removes the anonymous volumes that were made for the box, too, as it
	// always is with boxes that are removed when they stop.
	Volumes bool
	// MadeVolumes also removes volumes with names of their own that were made with the
	// box and that nothing else has named since, as is right for a box that never came
	// to be used.
	MadeVolumes bool
}

// RemoveWith is Remove with further options. What lies in folders of the host that
// the box had mounted is never touched.
func (r *Runtime) RemoveWith(ctx context.Context, key string, o RemoveOptions) error {
	row, err := r.find(ctx, key)
	if err != nil {
		return err
	}
	b := newLiteBox(r, BoxID(row.ID), row.Name) // its options may be unreadable: that is a reason to remove it
	if BoxStatus(row.Status).IsActive() {
		if !o.Force {
			return fail(ErrInvalidState, "box %s is %s: stop it first, or force the removal", key, row.Status)
		}
		if err := b.kill(ctx, killedRemoved); err != nil {
			return err
		}
	}
	lock, err := lockDir(ctx, r.boxDir(BoxID(row.ID))) // nobody may be starting it
	if err != nil {
		return wrap(ErrStorage, err, "lock box %s", row.ID)
	}
	defer lock.Close()
	now, err := r.find(ctx, row.ID)
	if errors.Is(err, ErrNotFound) {
		return wrap(ErrStorage, os.RemoveAll(r.boxDir(BoxID(row.ID))), "remove box %s", row.ID) // gone when it stopped
	} else if err != nil {
		return err
	} else if BoxStatus(now.Status).IsActive() {
		return fail(ErrInvalidState, "box %s was started meanwhile", key)
	}
	return r.discard(ctx, row.ID, o.Volumes || o.MadeVolumes || now.Ephemeral, o.MadeVolumes)
}

// discard deletes row and folder, with volumes the anonymous volumes that were made for
// the box, and with made also others that are there for it only. The row goes last, so
// that a crash in between leaves something that can be removed again.
func (r *Runtime) discard(ctx context.Context, id string, volumes, made bool) error {
	if err := os.RemoveAll(r.boxDir(BoxID(id))); err != nil {
		return wrap(ErrStorage, err, "remove box %s", id)
	}
	r.reach(stepEmptied)
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	var away []removed
	var take func([]state.Volume) error
	if volumes {
		take = func(list []state.Volume) error { return r.takeVolumes(list, &away) }
	}
	if err := db.Delete(ctx, id, string(EventDestroy), made, take); err != nil {
		return errors.Join(wrap(ErrDatabase, err, "remove box %s", id), putBack(away))
	}
	r.reach(stepDeleted)
	r.mu.Lock()
	delete(r.decide, BoxID(id))
	r.mu.Unlock()
	if err := r.deleteTaken(away); err != nil { // the box is gone all the same
		r.opts.Log.Warn("delete the volumes of a removed box", "box", id, "error", err)
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

// info is a row in the caller's terms. What this version cannot read makes the box
// Unknown, with the reason, and spoils no list: it can still be removed.
func (r *Runtime) info(row *state.Box) BoxInfo {
	i := BoxInfo{
		ID: BoxID(row.ID), Name: row.Name, Status: BoxStatus(row.Status), Reason: row.Reason,
		CreatedAt: row.CreatedAt.UTC(), LastUpdated: row.UpdatedAt.UTC(), Image: row.Image,
		StartedAt: row.StartedAt.UTC(), FinishedAt: row.FinishedAt.UTC(), ExitCode: row.ExitCode,
	}
	var o storedOptions
	if err := json.Unmarshal(row.Options, &o); err != nil {
		i.Status, i.Reason = StatusUnknown, fmt.Sprintf("its options cannot be read (%v): remove the box", err)
		return i
	}
	i.CPUs, i.MemoryMiB, i.Labels, i.Command = o.CPUs, o.MemoryMiB, o.Labels, o.Command
	i.Mounts = r.mountsOf(&o.BoxOptions)
	switch {
	case !i.Status.valid():
		i.Status, i.Reason = StatusUnknown, fmt.Sprintf("this version of boxlite knows no status %q: use the one that wrote it, or remove the box", row.Status)
	case i.Status.IsActive():
		i.PID, i.start = row.PID, row.PIDStart
		i.Ports = portsOf(row)
	}
	return i
}
