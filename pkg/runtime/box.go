package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// LiteBox is a handle to a box. It stays usable across stops and restarts, and
// several handles and processes may hold one box.
type LiteBox struct {
	rt   *Runtime
	id   BoxID
	opts BoxOptions
	name atomic.Pointer[string] // as last seen: somebody may rename the box

	times timings
	usage usageMeter

	mu     sync.Mutex
	report *vmm.Report // of the last VM that this handle's runtime started
}

// ID is the box's id.
func (b *LiteBox) ID() BoxID { return b.id }

// Name is the box's name, empty for none. See [Runtime.Rename].
func (b *LiteBox) Name() string { return *b.name.Load() }

func newLiteBox(r *Runtime, id BoxID, name string) *LiteBox {
	b := &LiteBox{rt: r, id: id}
	b.name.Store(&name)
	return b
}

// row is what the state has of the box.
func (b *LiteBox) row(ctx context.Context) (*state.Box, error) {
	row, err := b.rt.find(ctx, string(b.id))
	if err == nil {
		b.name.Store(&row.Name)
	}
	return row, err
}

// Info returns what is known of the box, without starting it.
func (b *LiteBox) Info(ctx context.Context) (BoxInfo, error) {
	row, err := b.row(ctx)
	if err != nil {
		return BoxInfo{}, err
	}
	return b.rt.info(row), nil
}

func (b *LiteBox) dir() string { return b.rt.boxDir(b.id) }

// ConsolePath is the file that holds what the box's kernel and init print.
func (b *LiteBox) ConsolePath() string { return vmm.ConsolePath(b.dir()) }

// vmProcess is a VM that this runtime started.
type vmProcess struct {
	*vmm.Process
	box      *LiteBox
	detached bool
	settled  chan struct{}      // closed when the state knows of the process's end
	leave    context.CancelFunc // ends what this runtime does for the VM
}

// watch records the end of the VM, whatever brings it about.
func (p *vmProcess) watch() {
	defer close(p.settled)
	<-p.Done()
	p.leave()
	r, b := p.box.rt, p.box
	ctx := context.Background()
	b.times.noteEnd(p.Events())
	b.mu.Lock()
	b.report = p.Report()
	b.mu.Unlock()
	b.dropLink()
	r.flushEvents() // what executions did was before this
	var err error
	if b.opts.KeepOnStop {
		_, err = r.stopped(ctx, string(b.id), p.PID, p.Start, p.Report())
	} else {
		err = r.discardOf(ctx, string(b.id), p.PID, p.Start, p.Report())
	}
	if err != nil && !errors.Is(err, state.ErrNotFound) && !r.isClosed() { // whoever looks next finds out by itself
		r.opts.Log.Warn("record the end of a box", "box", b.id, "error", err)
	}
	// Only now: whoever finds it there waits until its end is recorded.
	r.mu.Lock()
	if r.procs[b.id] == p {
		delete(r.procs, b.id)
	}
	r.mu.Unlock()
}

// Stop shuts the guest down: the main command gets the image's stop signal, and
// other processes SIGTERM; what is left after Options.StopGrace gets SIGKILL. A
// box that does not run is left alone. When Stop returns, the VM process is gone
// and, unless KeepOnStop is set, the box as well.
func (b *LiteBox) Stop(ctx context.Context) error { return b.StopWith(ctx, b.rt.opts.StopGrace) }

// StopWith is Stop with another grace, zero for none. A stop that is under way
// only ever gets quicker by it.
func (b *LiteBox) StopWith(ctx context.Context, grace time.Duration) error {
	if grace < 0 {
		return fail(ErrInvalidArgument, "a grace of %v", grace)
	}
	b.times.note(PhaseStop)
	defer b.times.note(PhaseStopped)
	return b.end(ctx, func(row *state.Box) error {
		if grace == 0 {
			if err := b.killed(ctx, row); err != nil {
				return err
			}
		}
		return vmm.Stop(ctx, b.dir(), row.PID, row.PIDStart, grace, shutdownSlack, func() { b.stopping(ctx, row) })
	})
}

// kill ends the box's VM at once. why is for whoever finds it gone.
func (b *LiteBox) kill(ctx context.Context, why string) error {
	return b.end(ctx, func(row *state.Box) error {
		if err := b.killing(ctx, row, why); err != nil {
			return err
		}
		b.rt.reach(stepKilling)
		return vmm.Kill(ctx, row.PID, row.PIDStart)
	})
}

// stopping records that the VM which row names was asked to end. That comes after it
// was: a caller that dies before leaves a box that runs, and says so.
func (b *LiteBox) stopping(ctx context.Context, row *state.Box) {
	b.rt.reach(stepAsked)
	err := b.changeActive(ctx, row, func(r *state.Box) { r.Status = string(StatusStopping) })
	if err != nil { // the box stops all the same
		b.rt.opts.Log.Warn("record the stop of a box", "box", b.id, "error", err)
	}
	b.rt.reach(stepStopping)
}

// changeActive changes the box's row, as long as it is about the VM that row names.
func (b *LiteBox) changeActive(ctx context.Context, row *state.Box, change func(*state.Box)) error {
	db, err := b.rt.state(ctx)
	if err != nil {
		return err
	}
	_, err = db.Update(ctx, string(b.id), func(r *state.Box) error {
		if r.PID == row.PID && r.PIDStart == row.PIDStart && BoxStatus(r.Status).IsActive() {
			change(r)
		}
		return nil
	})
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	return wrap(ErrDatabase, err, "stop box %s", b)
}

// end makes a box's VM end by stop.
func (b *LiteBox) end(ctx context.Context, stop func(*state.Box) error) error {
	row, err := b.row(ctx)
	if errors.Is(err, ErrNotFound) {
		return nil // it was removed when it stopped
	} else if err != nil {
		return err
	}
	if !BoxStatus(row.Status).IsActive() {
		if row.Ephemeral {
			err := b.rt.discardOf(ctx, string(b.id), row.PID, row.PIDStart, nil)
			switch {
			case errors.Is(err, state.ErrNotFound):
				return nil
			case errors.Is(err, errChanged):
				return fail(ErrInvalidState, "box %s was started meanwhile", b)
			}
			return err
		}
		return nil
	}
	b.rt.flushEvents() // what executions did was before this
	if err := stop(row); err != nil {
		return wrap(ErrEngine, err, "stop box %s", b)
	}
	b.rt.reach(stepEnded)
	return b.settle(ctx, row)
}

// settle makes the state know of a VM's end before the caller goes on.
func (b *LiteBox) settle(ctx context.Context, row *state.Box) error {
	b.rt.mu.Lock()
	p := b.rt.procs[b.id]
	b.rt.mu.Unlock()
	if p != nil && p.PID == row.PID {
		select {
		case <-p.settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.dropLink()
	if _, err := b.rt.find(ctx, string(b.id)); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := b.rt.sweep(ctx); err != nil { // what is the matter with other boxes is not this one's
		b.rt.opts.Log.Warn("clear away left-over boxes", "error", err)
	}
	return nil
}

func (b *LiteBox) String() string {
	if name := b.Name(); name != "" {
		return fmt.Sprintf("%s (%s)", name, b.id)
	}
	return string(b.id)
}

// diskPath is the box's writable disk.
func (b *LiteBox) diskPath() string { return filepath.Join(b.dir(), diskName) }

const diskName = "disk.ext4"
