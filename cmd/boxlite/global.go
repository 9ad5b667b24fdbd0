package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/oci/ociprogress"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/spf13/cobra"
)

// globalOptions are the flags that every command has.
type globalOptions struct {
	home       string
	registries []string
	debug      bool

	opened  bool // the command line was right, and the home is there
	quiet   bool // no progress display, whatever the terminal
	display *ociprogress.Display
}

func (g *globalOptions) add(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&g.home, "home", "", "folder of boxes and images (default $BOXLITE_HOME, or ~/.boxlite)")
	f.StringArrayVar(&g.registries, "registry", nil, "registry to try for image names without one (default docker.io)")
	f.BoolVar(&g.debug, "debug", false, "print diagnostics to standard error")
}

// open opens the runtime. done ends the progress display, if one was shown; it
// may be called more than once.
func (g *globalOptions) open() (rt *runtime.Runtime, done func(), err error) {
	if _, err := os.UserHomeDir(); err != nil && g.home == "" && os.Getenv("BOXLITE_HOME") == "" {
		return nil, nil, errors.New("no home directory: choose a folder with --home or BOXLITE_HOME")
	}
	o := runtime.Options{HomeDir: g.home, ImageRegistries: g.registries, Progress: g.progress()}
	if g.debug {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if rt, err = runtime.New(o); errors.Is(err, runtime.ErrStorage) {
		return nil, nil, fmt.Errorf("%w: choose another folder with --home or BOXLITE_HOME", err)
	} else if err != nil {
		return nil, nil, err
	}
	g.opened = true
	return rt, sync.OnceFunc(func() {
		if g.display != nil {
			g.display.Close()
		}
	}), nil
}

// do runs f with the runtime.
func (g *globalOptions) do(f func(rt *runtime.Runtime) error) (err error) {
	rt, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	defer func() { err = errors.Join(err, rt.Close()) }()
	return f(rt)
}

// progress is nil where nobody would see it.
func (g *globalOptions) progress() func(oci.Event) {
	if g.quiet || !isTerminal(os.Stderr) {
		return nil
	}
	if g.display == nil {
		g.display = ociprogress.New(os.Stderr)
	}
	return g.display.Event
}
