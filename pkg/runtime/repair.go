package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// alive reports whether the process a row names still runs. What cannot be told
// counts as alive: a box must not be given up for want of a file descriptor.
func alive(row *state.Box) bool {
	if boot := state.BootID(); boot != "" && row.BootID != boot {
		return false
	}
	return row.PID > 0 && row.PIDStart != 0 && vmm.Alive(row.PID, row.PIDStart)
}

// repair makes a row tell the truth when the process it names is gone, whoever
// was killed: a box with a dead VM is Stopped, and one that was to be removed
// then is removed now. The result is state.ErrNotFound for those.
func (r *Runtime) repair(ctx context.Context, row *state.Box) (*state.Box, error) {
	gone := BoxStatus(row.Status).IsActive() || row.Ephemeral && row.PID != 0
	if !gone || alive(row) {
		return row, nil
	}
	r.mu.Lock()
	p := r.procs[BoxID(row.ID)]
	r.mu.Unlock()
	if p != nil && p.PID == row.PID {
		// Ours: its watcher is about to record it, and to drop the link to its guest.
		select {
		case <-p.settled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		db, err := r.state(ctx)
		if err != nil {
			return nil, err
		}
		return db.Find(ctx, row.ID)
	}
	if !row.Ephemeral {
		return r.stopped(ctx, row.ID, row.PID, row.PIDStart, nil)
	}
	err := r.discardOf(ctx, row.ID, row.PID, row.PIDStart, nil)
	if errors.Is(err, errChanged) { // it was started since this row was read
		db, err := r.state(ctx)
		if err != nil {
			return nil, err
		}
		return db.Find(ctx, row.ID)
	}
	if err == nil {
		err = state.ErrNotFound
	}
	return nil, err
}

// errChanged says that a row names another process by now.
var errChanged = errors.New("the box was started meanwhile")

// discardOf deletes an ephemeral box whose process, named by its row, is gone. It
// takes the row over first, so that nobody starts the box meanwhile, and whoever
// finds this process gone half-way goes on. A box that another process has since
// taken over is errChanged.
// rep is how the process ended, nil where that is not known.
func (r *Runtime) discardOf(ctx context.Context, id string, pid int, start uint64, rep *vmm.Report) error {
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	end := r.ending(ctx, id, rep) // while its folder is there
	_, err = db.Update(ctx, id, func(row *state.Box) error {
		if row.PID != pid || row.PIDStart != start {
			return errChanged
		}
		if BoxStatus(row.Status).IsActive() {
			end.record(row)
		}
		row.Status, row.Reason, row.BootID = string(StatusUnknown), "it is being removed", state.BootID() // not active: the process is no VM
		row.PID = os.Getpid()
		row.PIDStart = vmm.StartTime(row.PID)
		return nil
	})
	if errors.Is(err, state.ErrNotFound) || errors.Is(err, errChanged) {
		return err
	} else if err != nil {
		return wrap(ErrDatabase, err, "remove box %s", id)
	}
	r.reach(stepTaken)
	return r.discard(ctx, id, true, false)
}

// stopped records the end of a VM process, unless a newer one runs by now. rep is
// how it ended, nil where that is not known.
func (r *Runtime) stopped(ctx context.Context, id string, pid int, start uint64, rep *vmm.Report) (*state.Box, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	end := r.ending(ctx, id, rep)
	return db.Update(ctx, id, func(row *state.Box) error {
		if row.PID != pid || row.PIDStart != start {
			return nil
		}
		end.record(row)
		row.Status, row.Reason, row.PID, row.PIDStart = string(StatusStopped), end.reason, 0, 0
		if row.StartedAt.IsZero() { // it ran for its files only
			row.Status = string(StatusConfigured)
		}
		if !row.StartedAt.IsZero() && row.FinishedAt.IsZero() {
			row.FinishedAt = end.at
		}
		if end.code != nil {
			row.ExitCode = end.code
		}
		return nil
	})
}

// ending is how a box's last VM ended.
type ending struct {
	reason string // empty where somebody wanted it
	at     time.Time
	code   *int // of the main command, nil where it is not known
	asked  bool // by Stop
	noDir  bool // the box's folder is gone
}

// ending finds out how the VM of a box ended, which it has: from the report in its
// folder, or else from the one that its parent got.
func (r *Runtime) ending(ctx context.Context, id string, parents *vmm.Report) ending {
	end := ending{at: time.Now()}
	rep, err := vmm.ReadReport(r.boxDir(BoxID(id)))
	if err != nil && parents != nil && parents.Cause != vmm.CauseVMMDeath {
		rep, err = parents, nil
	}
	if err != nil {
		if end.reason = r.killedFor(ctx, id); end.reason == "" {
			_, serr := os.Stat(r.boxDir(BoxID(id)))
			end.noDir = errors.Is(serr, os.ErrNotExist)
			end.reason = "the VM process ended without a report (killed, or the host went down)"
		}
		return end
	}
	if !rep.Clean() {
		end.reason = string(rep.Cause)
		if rep.Detail != "" {
			end.reason += ": " + rep.Detail
		}
	}
	if !rep.Ended.IsZero() {
		end.at = rep.Ended
	}
	if rep.Main != nil {
		code := rep.Main.ExitCode()
		end.code = &code
	}
	end.asked = rep.Cause == vmm.CauseStop
	return end
}

// record adds the events of an end to the box's row.
func (end ending) record(row *state.Box) {
	if row.Ephemeral && end.noDir {
		// The VM process removed it, as it does when nobody is there to ask.
		end.reason, end.asked = "", row.Status == string(StatusStopping)
	}
	about := make(map[string]string)
	if end.code != nil {
		about["exitCode"] = strconv.Itoa(*end.code)
	}
	if end.reason != "" {
		about["reason"] = end.reason
	}
	row.Record(string(EventDie), about)
	if end.asked {
		row.Record(string(EventStop), nil)
	}
}

// sweep clears away what killed processes left: rows of boxes that should be
// gone, and folders without a row. A row is made before its folder, so such a
// folder belongs to nobody.
func (r *Runtime) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.opts.HomeDir, "boxes")) // before the rows, or a new box's folder would look lost
	if err != nil {
		return wrap(ErrStorage, err, "look for left-over boxes")
	}
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	rows, err := db.List(ctx)
	if err != nil {
		return wrap(ErrDatabase, err, "look for left-over boxes")
	}
	known := make(map[string]bool, len(rows))
	var errs []error
	for _, row := range rows {
		known[row.ID] = true
		if _, err := r.repair(ctx, row); err != nil && !errors.Is(err, state.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	for _, e := range entries {
		// A disk is never removed on the word of a missing row: the state itself may be lost.
		if _, err := os.Stat(filepath.Join(r.boxDir(BoxID(e.Name())), diskName)); !known[e.Name()] && errors.Is(err, os.ErrNotExist) {
			errs = append(errs, wrap(ErrStorage, os.RemoveAll(r.boxDir(BoxID(e.Name()))), "remove left-over box %s", e.Name()))
		}
	}
	errs = append(errs, r.clearRemoved(ctx))
	return errors.Join(errs...)
}

// bootRecord is what a box keeps of its image, so that later starts neither
// resolve nor need the reference again.
type bootRecord struct {
	Digest string
	Config imageConfig
	Parts  []vmm.Part
}

const recordName = "image.json"

func readRecord(dir string) (*bootRecord, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	rec := new(bootRecord)
	if err := json.Unmarshal(b, rec); err != nil {
		return nil, wrap(ErrMetadata, err, "%s", filepath.Join(dir, recordName))
	}
	return rec, nil
}

func (rec *bootRecord) write(dir string) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, recordName)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
