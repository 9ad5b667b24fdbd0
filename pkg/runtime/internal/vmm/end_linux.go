package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/virtio/vsock"
)

// watchEnd waits for what ends the box, and shuts the guest down.
func (c *child) watchEnd(ctx context.Context, agent *agentLink, terms <-chan os.Signal) {
	var mainEnded chan struct{}
	if c.command != nil {
		mainEnded = c.command.ended
	}
	parent := c.parent.gone
	for {
		select {
		case <-terms:
			agent.shutdown(ctx, CauseStop, c.newPatience(c.cfg.Grace))
		case grace := <-c.stops:
			agent.shutdown(ctx, CauseStop, c.newPatience(grace))
		case <-mainEnded:
			// What it left running has no more to do; containers end that way.
			agent.shutdown(ctx, CauseMain, c.newPatience(0))
		case <-parent:
			if c.outlives(agent) {
				parent = nil
				continue
			}
			agent.shutdown(ctx, CauseParent, c.newPatience(c.cfg.Grace))
		case <-ctx.Done():
		}
		return
	}
}

// outlives reports whether the box goes on without its parent: if that was
// asked for, and it got as far as to be of use.
func (c *child) outlives(agent *agentLink) bool {
	if !c.detached() {
		return false
	}
	if c.command != nil {
		select {
		case <-c.command.begun:
		default:
			return false
		}
	}
	select {
	case <-agent.ready:
		return true
	default:
		return false
	}
}

// newPatience begins a stop.
func (c *child) newPatience(d time.Duration) *patience {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patience = newPatience(d)
	return c.patience
}

// The service's view of the process; see serve.go.

func (c *child) main() *supervisor { return c.command }

// stop begins a stop, or makes the one under way quicker.
func (c *child) stop(grace time.Duration) {
	c.mu.Lock()
	p := c.patience
	c.mu.Unlock()
	if p != nil {
		p.shorten(grace)
		return
	}
	for {
		select {
		case c.stops <- grace:
			return
		default:
		}
		select { // somebody else has just asked: the shorter grace counts
		case other := <-c.stops:
			grace = min(grace, other)
		default:
		}
	}
}

func (c *child) detached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Detach || c.adopted
}

// adopt has the box outlive its parent from now on.
func (c *child) adopt() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.parent.gone:
		if !c.cfg.Detach && !c.adopted {
			return errors.New("the box is ending with the process that started it")
		}
	default:
	}
	c.adopted = true
	return nil
}

// runMain runs the main command once the guest is set up.
func (c *child) runMain(ctx context.Context, agent *agentLink) {
	select {
	case <-agent.ready:
	case <-ctx.Done():
		return
	}
	err := c.command.run(ctx, func(ctx context.Context, spec agentapi.ExecSpec) (*running, error) {
		p, err := agent.client.Exec(ctx, spec)
		if err != nil {
			return nil, err
		}
		r := &running{command: p, stdin: p.Stdin}
		if out, ok := p.Stdout.(net.Conn); ok {
			r.stdout = out
		}
		if out, ok := p.Stderr.(net.Conn); ok {
			r.stderr = out
		}
		return r, nil
	}, func() { c.reached(Event{Stage: StageMain}) })
	if err != nil && ctx.Err() == nil {
		// The agent is lost; how the VM ends says why. One that goes on has lost its use.
		select {
		case <-ctx.Done():
		case <-time.After(shutdownLimit):
			c.end(CauseFailed, fmt.Errorf("the guest's agent is lost: %w", err))
		}
	}
}

// deviceDialer is the guest as seen from this process.
type deviceDialer struct{ d *vsock.Device }

func (d deviceDialer) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.d.Dial(ctx, port)
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return c, nil
}
