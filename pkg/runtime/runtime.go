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
	opts  Options
	mu    sync.Mutex
	db    *state.DB // opened when first needed
	store *oci.Store
	procs map[string]*vmProcess // VM processes this runtime started, by box id

	pending eventQueue
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
	if f, err := os.OpenFile(filepath.Join(opts.HomeDir, "boxlite.db"), os.O_CREATE|os.O_RDONLY, 0o600); err != nil {
		return nil, wrap(ErrStorage, err, "home directory %s", opts.HomeDir)
	} else {
		f.Close()
	}
	return &Runtime{opts: opts, procs: make(map[string]*vmProcess)}, nil
}

// NewWithDefaults is New with the zero Options.
func NewWithDefaults() (*Runtime, error) { return New(Options{}) }

// HomeDir is the absolute path of the home directory.
func (r *Runtime) HomeDir() string { return r.opts.HomeDir }

// Close stops the boxes that this runtime started and that are not detached,
// and closes the state. A program that ends without Close loses nothing: its
// boxes notice and stop by themselves.
func (r *Runtime) Close() error {
	r.mu.Lock()
	var boxes []*vmProcess
	for _, p := range r.procs {
		if !p.detached {
			boxes = append(boxes, p)
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, p := range boxes {
		errs = append(errs, p.box.Stop(context.Background()))
	}
	r.flushEvents()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db != nil {
		errs = append(errs, wrap(ErrDatabase, r.db.Close(), "close the state"))
		r.db = nil
	}
	return errors.Join(errs...)
}

// state opens the database on first use: commands that need none do not pay for it.
func (r *Runtime) state(ctx context.Context) (*state.DB, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
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

func (r *Runtime) boxDir(id string) string { return filepath.Join(r.opts.HomeDir, "boxes", id) }
