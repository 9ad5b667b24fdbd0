package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// Destination is what a box wants to reach and no rule of its [NetworkSpec] knows.
type Destination struct {
	Box BoxID
	// Name is what the box looked Addr up by, or empty where it used an address that
	// its name server did not give it. It is in lower case, without a last dot.
	Name string
	// Addr is zero when the box looks Name up: allowing that allows whatever the box
	// sends there. The port is 0 with [ProtocolICMP].
	Addr     netip.AddrPort
	Protocol FlowProtocol // [ProtocolDNS] when the box looks Name up
}

func (d Destination) String() string {
	if d.Protocol == ProtocolDNS {
		return d.Name
	}
	to := d.Addr.String()
	if d.Protocol == ProtocolICMP {
		to = d.Addr.Addr().String()
	}
	if d.Name != "" {
		to = fmt.Sprintf("%s (%s)", d.Name, to)
	}
	return string(d.Protocol) + " to " + to
}

// DecideFunc says whether a box may reach a destination. It is called from any number
// of goroutines, at most 32 at a time for a box, while the box's program waits. Only
// true without an error before ctx ends allows; a panic denies.
type DecideFunc func(ctx context.Context, d Destination) (bool, error)

// maxDecideTimeout is longer than any program waits for a connection.
const maxDecideTimeout = time.Hour

func (n *NetworkSpec) fillDecide() error {
	n.Ask = n.Ask || n.Decide != nil
	switch {
	case n.Ask && n.Mode == NetworkNone:
		return fail(ErrInvalidArgument, "decisions for a box that has no network: leave one of them out")
	case n.DecideTimeout < 0 || n.DecideTimeout > maxDecideTimeout:
		return fail(ErrInvalidArgument, "network: a decision within %v: choose up to %v", n.DecideTimeout, maxDecideTimeout)
	}
	return nil
}

// Decide has f decide on what the box, which runs and has [NetworkSpec].Ask, wants to
// reach, in place of whoever did so far. It is for boxes whose creator has left, or
// that another program started. It returns when ctx ends, with its error; when the
// box stops, with nil; or when somebody else takes over, with ErrInvalidState.
func (b *LiteBox) Decide(ctx context.Context, f DecideFunc) error {
	if !b.opts.Network.Ask {
		return fail(ErrInvalidState, "box %s asks nobody what it may reach: create it with NetworkSpec.Ask", b)
	}
	if _, err := b.active(ctx); err != nil {
		return err
	}
	switch err := vmm.Decide(ctx, b.dir(), b.decider(f)); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, vmm.ErrReplaced):
		return fail(ErrInvalidState, "box %s: somebody else decides now", b)
	case err != nil:
		return b.networkError(err, "decide")
	}
	return nil
}

// decider is f in the terms of the VM process.
func (b *LiteBox) decider(f DecideFunc) func(context.Context, egress.Request) egress.Action {
	return func(ctx context.Context, r egress.Request) egress.Action {
		d := Destination{Box: b.id, Name: r.Name, Addr: r.Flow.Dst, Protocol: FlowProtocol(r.Flow.Protocol.String())}
		if d.Protocol == "" {
			d.Protocol = ProtocolDNS
		}
		allow, err := b.decideSafely(ctx, f, d)
		if err == nil {
			err = ctx.Err() // too late
		}
		log := b.rt.opts.Log.With("box", b.id, "name", d.Name, "addr", d.Addr, "protocol", string(d.Protocol))
		if err != nil {
			log.Warn("no decision on a destination, which denies it", "error", err)
			return 0
		}
		log.Info("decided on a destination", "allow", allow)
		if allow {
			return egress.Allow
		}
		return egress.Deny
	}
}

// decideSafely keeps a callback that panics from ending the caller's program, and
// from allowing anything.
func (b *LiteBox) decideSafely(ctx context.Context, f DecideFunc, d Destination) (allow bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			allow, err = false, fmt.Errorf("the callback panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return f(ctx, d)
}

// decide has the creator's callback decide for a VM that this runtime started, as
// long as both are there.
func (p *vmProcess) decide(ctx context.Context, f DecideFunc) {
	if _, err := p.WaitBuilt(ctx); err != nil {
		return // the boot's error, which Start returns
	}
	for {
		err := vmm.Decide(ctx, p.box.dir(), p.box.decider(f))
		if err == nil || errors.Is(err, vmm.ErrReplaced) || ctx.Err() != nil {
			return
		}
		p.box.rt.opts.Log.Warn("decide on what a box may reach", "box", p.box.id, "error", err)
		select {
		case <-time.After(time.Second): // out of descriptors, say
		case <-ctx.Done():
			return
		}
	}
}
