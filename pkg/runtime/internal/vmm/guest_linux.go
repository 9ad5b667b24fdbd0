package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
)

// agentLink is the VMM's own connection to the agent: it sets the guest up and
// shuts it down. Other processes have connections of their own.
type agentLink struct {
	c        *child
	listener net.Listener
	ready    chan struct{} // closed when the guest is set up
	client   *guest.Client // valid when ready
	logged   int           // messages of the agent; event is called by one goroutine
}

// maxAgentLog is how many messages of its agent a VM's log takes.
const maxAgentLog = 200

// shutdownLimit is how long a guest may take to shut down beyond the grace of
// its processes, before the VM is just ended.
const shutdownLimit = 10 * time.Second

func newAgentLink(c *child) (*agentLink, error) {
	l, err := c.devices.vsock.Listen(agentapi.PortControl)
	if err != nil {
		return nil, fmt.Errorf("vmm: wait for the agent: %w", err)
	}
	return &agentLink{c: c, listener: l, ready: make(chan struct{})}, nil
}

// serve waits for the agent's call and sets the guest up. The agent calls once.
func (a *agentLink) serve(ctx context.Context) {
	defer a.listener.Close()
	stop := context.AfterFunc(ctx, func() { a.listener.Close() })
	defer stop()
	conn, err := a.listener.Accept()
	if err != nil {
		return // the VM ended before
	}
	if err := a.setUp(ctx, conn); err != nil && ctx.Err() == nil {
		a.c.end(CauseSetup, err)
	}
}

func (a *agentLink) setUp(ctx context.Context, conn net.Conn) error {
	client, hello, err := guest.New(ctx, conn, deviceDialer{a.c.devices.vsock}, guest.OnEvent(a.event))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { client.Close() })
	a.c.reached(Event{Stage: StageHello, Guest: &hello})
	ready, err := client.Setup(ctx, a.c.cfg.Setup)
	if err != nil {
		return err
	}
	if err := a.mount(ctx, client, &ready); err != nil {
		return err
	}
	a.client = client
	close(a.ready)
	a.c.reached(Event{Stage: StageReady, Ready: &ready})
	return nil
}

// mount has the guest mount its volumes. Where owners are not kept, their files are
// the box's user's there.
func (a *agentLink) mount(ctx context.Context, client *guest.Client, ready *agentapi.Ready) error {
	mounts := a.c.cfg.Mounts
	if len(mounts) == 0 {
		return nil
	}
	for _, d := range a.c.mapped {
		d.SetOwner(ready.UID, ready.GID)
	}
	release, err := lockEmpty(ctx, mounts, lockLimit)
	defer release()
	if err != nil {
		return err
	}
	points := make([]agentapi.MountPoint, len(mounts))
	for i := range mounts {
		points[i] = mounts[i].Point
	}
	err = client.Mount(ctx, points)
	if refused := (*agentapi.Error)(nil); errors.As(err, &refused) && refused.Code == agentapi.CodeSetup {
		// The guest is well: what it was asked for is not to be had in this image.
		a.c.noteCause(CauseMount, errors.New(oneLine(refused.Op[:min(len(refused.Op), 4096)]+": "+refused.Msg[:min(len(refused.Msg), 1024)])+": choose another path in the box"))
	}
	return err
}

// event notes what the agent says unasked. Its text is the guest's.
func (a *agentLink) event(m agentapi.Message) {
	switch m := m.(type) {
	case *agentapi.Log:
		if a.logged++; a.logged > maxAgentLog {
			return // the guest must not fill the host's disk
		}
		a.c.log.Info("agent", "text", Printable([]byte(m.Text[:min(len(m.Text), 1024)])))
	case *agentapi.PowerOff:
		a.c.noteCause(CauseGuest, errors.New(oneLine(m.Reason[:min(len(m.Reason), 256)])))
	}
}

// shutdown ends the guest in order if it can be, and else at once: first its
// main command, then what else runs in it.
func (a *agentLink) shutdown(ctx context.Context, cause Cause, p *patience) {
	a.c.noteCause(cause, nil)
	select {
	case <-a.ready:
	default:
		a.c.m.Stop() // nothing runs in it that could lose anything
		return
	}
	if m := a.c.command; m != nil {
		m.stop(ctx, a.c.cfg.Main.StopSignal, p.over)
	}
	grace := p.left()
	limit, cancel := context.WithTimeout(ctx, grace+shutdownLimit)
	defer cancel()
	if err := a.client.Shutdown(limit, grace); err != nil && ctx.Err() == nil {
		a.c.log.Warn("shut the guest down", "error", err)
	} else if err == nil {
		// The guest resets itself now; that ends ctx.
		select {
		case <-limit.Done():
		case <-time.After(shutdownLimit):
		}
	}
	a.c.m.Stop()
}
