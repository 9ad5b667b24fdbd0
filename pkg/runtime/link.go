package runtime

import (
	"context"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// guestLink is a connection to the agent of a box's current boot.
type guestLink struct {
	client *guest.Client
	image  imageConfig
	pid    int // of the VM process, with its start time
	start  uint64
}

// usable reports whether the link still leads anywhere. The death of the VM may be
// known to the state before the connection has noticed.
func (l *guestLink) usable() bool { return l.client.Err() == nil && vmm.Alive(l.pid, l.start) }

// currentLink returns the link that is open, if one is. All handles to a box share it.
func (b *LiteBox) currentLink() *guestLink {
	b.rt.mu.Lock()
	l := b.rt.links[b.id]
	b.rt.mu.Unlock()
	if l == nil || !l.usable() {
		return nil
	}
	return l
}

// connect opens a link to the agent of a running box. One that shows no sign of
// life for as long as a boot may is given up.
func (b *LiteBox) connect(ctx context.Context) (*guestLink, error) {
	ctx, cancel := b.patient(ctx)
	defer cancel()
	row, err := b.row(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := readRecord(b.dir())
	if err != nil {
		return nil, wrap(ErrMetadata, err, "connect to box %s", b)
	}
	dialer := vmm.Dialer{Dir: b.dir()}
	conn, err := dialer.Dial(ctx, agentapi.PortControl)
	if err != nil {
		return nil, wrap(ErrPortal, err, "connect to box %s", b)
	}
	client, _, err := guest.New(ctx, conn, dialer)
	if err != nil {
		return nil, wrap(ErrPortal, err, "connect to box %s", b)
	}
	l := &guestLink{client: client, image: rec.Config, pid: row.PID, start: row.PIDStart}
	b.rt.mu.Lock()
	closed, other := b.rt.closed, b.rt.links[b.id]
	switch {
	case closed:
		other = l
	case other != nil && other.usable():
		l, other = other, l // another goroutine was quicker
	default:
		b.rt.links[b.id] = l
	}
	b.rt.mu.Unlock()
	if other != nil {
		other.client.Close()
	}
	if closed {
		return nil, errClosed()
	}
	return l, nil
}

// patient bounds the wait for the answer of a box that is known to run by what a
// boot may take without a sign of life.
func (b *LiteBox) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if limit := b.rt.opts.BootStall; limit > 0 {
		return context.WithTimeout(ctx, limit)
	}
	return context.WithCancel(ctx)
}

// dropLink closes the link, so that the next call opens one to the next boot.
func (b *LiteBox) dropLink() {
	b.rt.mu.Lock()
	link := b.rt.links[b.id]
	delete(b.rt.links, b.id)
	b.rt.mu.Unlock()
	if link != nil {
		link.client.Close()
	}
}

// lastReport says how the box's VM ended, nil when that cannot be told. A VM that
// is just dying is waited for, as its report explains the caller's error.
func (b *LiteBox) lastReport() *vmm.Report {
	b.rt.mu.Lock()
	p := b.rt.procs[b.id]
	b.rt.mu.Unlock()
	if p != nil {
		select {
		case <-p.Done():
			return p.Report()
		case <-time.After(5 * time.Second):
			return nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report
}
