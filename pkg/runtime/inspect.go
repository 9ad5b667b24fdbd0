package runtime

import (
	"maps"
	"slices"
)

// Options are those that the box was made with, defaults filled in. The result is
// the caller's own.
func (b *LiteBox) Options() BoxOptions {
	o := b.opts
	o.Ports = slices.Clone(o.Ports)
	o.Network.Allow, o.Network.Deny = slices.Clone(o.Network.Allow), slices.Clone(o.Network.Deny)
	o.Env, o.Labels = slices.Clone(o.Env), maps.Clone(o.Labels)
	if o.Main != nil {
		m := *o.Main
		m.Args, m.Entrypoint = slices.Clone(m.Args), slices.Clone(m.Entrypoint)
		o.Main = &m
	}
	return o
}
