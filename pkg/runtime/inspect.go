package runtime

import (
	"maps"
	"slices"

	"github.com/anthropics/boxlite/pkg/runtime/internal/assets"
)

// Options are those that the box was made with, defaults filled in. The result is
// the caller's own.
func (b *LiteBox) Options() BoxOptions {
	o := b.opts
	o.Env, o.Labels = slices.Clone(o.Env), maps.Clone(o.Labels)
	if o.Main != nil {
		m := *o.Main
		m.Args, m.Entrypoint = slices.Clone(m.Args), slices.Clone(m.Entrypoint)
		o.Main = &m
	}
	return o
}

// GuestKernel says which kernel boxes boot, and how it was found.
type GuestKernel struct {
	Path   string // of the file; empty where there is none yet
	Source string // "option", "$BOXLITE_KERNEL", "built in" or "home directory"; empty for none
}

// GuestKernel returns the kernel that boxes boot. It is quick: the file is not
// looked into, and a built-in one is unpacked when it is first needed.
func (r *Runtime) GuestKernel() GuestKernel {
	path, source := assets.Kernel.Locate(r.opts.Kernel, r.opts.HomeDir)
	return GuestKernel{path, source}
}
