// Package runtime runs OCI images in micro-VMs of their own.
//
//	rt, err := runtime.NewWithDefaults()
//	box, err := rt.Create(ctx, runtime.BoxOptions{Rootfs: runtime.Image("alpine")}, "")
//	run, err := box.Run(ctx, runtime.Command("echo", "hello"))
//	io.Copy(os.Stdout, run.Stdout())
//	result, err := run.Wait(ctx)
//	err = box.Stop(ctx)
//
// Each running box is one process, the calling program started again as a VM
// (see Options.VMMPath); nothing has to be called for that. Any number of
// processes may use one home directory at once. All types may be used from any
// goroutine.
package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Runtime creates and finds the boxes of one home directory.
type Runtime struct {
	opts    Options
	counter counter

	shutting sync.Mutex // held by Shutdown; taken before mu

	mu      sync.Mutex
	closing bool // Shutdown has begun
	closed  bool
	db      *state.DB // opened when first needed
	store   *oci.Store
	procs   map[BoxID]*vmProcess // VM processes this runtime started
	links   map[BoxID]*guestLink // to the guests of boxes, whoever started them
	decide  map[BoxID]DecideFunc // of boxes that this runtime made

	pending eventQueue
	reached func(step) // told of each step, by tests that crash there; nil otherwise
}

// New opens a home directory, creating it if need be.
func New(opts Options) (*Runtime, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	for _, d := range []string{"", "boxes"} {
		if err := os.MkdirAll(filepath.Join(opts.HomeDir, d), 0o700); err != nil {
			return nil, wrap(ErrStorage, err, "home directory %s", opts.HomeDir)
		}
	}
	// The state holds the boxes' environments, which may be secrets.
	if err := state.Create(filepath.Join(opts.HomeDir, "boxlite.db")); err != nil {
		return nil, wrap(ErrStorage, err, "home directory %s", opts.HomeDir)
	}
	r := &Runtime{opts: opts, procs: make(map[BoxID]*vmProcess), links: make(map[BoxID]*guestLink), decide: make(map[BoxID]DecideFunc)}
	r.counter.rt = r
	return r, nil
}

// NewWithDefaults is New with the zero Options.
func NewWithDefaults() (*Runtime, error) { return New(Options{}) }

// HomeDir is the absolute path of the home directory.
func (r *Runtime) HomeDir() string { return r.opts.HomeDir }

// Close is [Runtime.Shutdown] without a limit of time.
func (r *Runtime) Close() error { return r.Shutdown(context.Background()) }

// Shutdown stops the boxes that this runtime started and that are not detached,
// all at once, and closes the state. When ctx ends first, those left are killed.
// Whatever is called on the runtime or its boxes afterwards is ErrInvalidState;
// a second Shutdown does nothing. A program that ends without it loses nothing:
// its boxes notice and stop by themselves.
func (r *Runtime) Shutdown(ctx context.Context) error {
	r.shutting.Lock()
	defer r.shutting.Unlock()
	r.mu.Lock()
	r.closing = true // nothing is created or started from here on
	var mine, detached []*vmProcess
	for _, p := range r.procs {
		if p.detached {
			detached = append(detached, p)
		} else {
			mine = append(mine, p)
		}
	}
	r.mu.Unlock()
	errs := make([]error, len(mine))
	var stops sync.WaitGroup
	for i, p := range mine {
		stops.Go(func() { errs[i] = p.shutdown(ctx) })
	}
	stops.Wait()
	for _, p := range detached {
		p.forget()
	}
	r.flushEvents()
	r.mu.Lock()
	links := r.links
	r.closed, r.links = true, nil
	r.mu.Unlock()
	for _, l := range links {
		l.client.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db != nil {
		errs = append(errs, wrap(ErrDatabase, r.db.Close(), "close the state"))
		r.db = nil
	}
	return errors.Join(errs...)
}

// shutdown stops a box, by force when there is no more time.
func (p *vmProcess) shutdown(ctx context.Context) error {
	err := p.box.Stop(ctx)
	if err != nil && ctx.Err() != nil {
		return p.box.kill(context.WithoutCancel(ctx), killedShutdown)
	}
	return err
}

// forget ends the watch over a box that outlives this runtime. Whoever looks next
// finds out what became of it.
func (p *vmProcess) forget() {
	p.leave()
	p.box.dropLink()
	select {
	case <-p.Done():
		<-p.settled // it is ending: let the state know
	default:
	}
}

// open fails from the moment that Shutdown begins.
func (r *Runtime) checkOpen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return errClosed()
	}
	return nil
}

func (r *Runtime) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// errClosed is what a runtime says after Shutdown.
func errClosed() error { return fail(ErrInvalidState, "the runtime was shut down: make a new one") }

// state opens the database on first use: commands that need none do not pay for it.
func (r *Runtime) state(ctx context.Context) (*state.DB, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed()
	}
	if r.db == nil {
		db, err := state.Open(ctx, filepath.Join(r.opts.HomeDir, "boxlite.db"))
		if err != nil {
			return nil, wrap(ErrDatabase, err, "open the state of %s", r.opts.HomeDir)
		}
		r.db = db
	}
	return r.db, nil
}

// Images opens the image store of the home directory.
func (r *Runtime) Images() (*oci.Store, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed()
	}
	if r.store == nil {
		s, err := oci.Open(filepath.Join(r.opts.HomeDir, "images"), oci.Options{
			Registries: r.opts.ImageRegistries, Log: r.opts.Log,
		})
		if err != nil {
			return nil, wrap(ErrStorage, err, "image store of %s", r.opts.HomeDir)
		}
		r.store = s
	}
	return r.store, nil
}

func (r *Runtime) boxDir(id BoxID) string { return filepath.Join(r.opts.HomeDir, "boxes", string(id)) }
