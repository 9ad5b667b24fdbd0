package vmm

import (
	"context"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// NetworkState returns the counters of the network of the box in a folder, and its
// ports. A box without one is an *agentapi.Error.
func NetworkState(ctx context.Context, dir string) (*NetworkStats, []Port, error) {
	conn, r, err := ask(ctx, dir, request{Op: opNetwork})
	if err != nil {
		return nil, nil, err
	}
	return r.Network, r.Ports, conn.Close()
}

// AddPort opens a port of the host for the box in a folder, and returns it as it is.
func AddPort(ctx context.Context, dir string, p Port) (Port, error) {
	conn, r, err := ask(ctx, dir, request{Op: opAddPort, Port: &p})
	if err != nil {
		return p, err
	}
	if len(r.Ports) == 1 {
		p = r.Ports[0]
	}
	return p, conn.Close()
}

// RemovePort closes one.
func RemovePort(ctx context.Context, dir string, p Port) error {
	return tell(ctx, dir, request{Op: opRemovePort, Port: &p})
}

// Decide answers what the policy of the box in a folder asks, until ctx ends or the
// box does. decide is called on one goroutine for each question.
func Decide(ctx context.Context, dir string, decide func(context.Context, egress.Request) egress.Action) error {
	conn, _, err := ask(ctx, dir, request{Op: opDecide})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answers := make(chan answer)
	go func() {
		for {
			select {
			case a := <-answers:
				if writeFrame(conn, a) != nil {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var q Question
		if err := readFrameLimit(conn, &q, requestLimit); err != nil {
			return err
		}
		go func() {
			a := answer{q.ID, decide(ctx, q.Ask)}
			select {
			case answers <- a:
			case <-ctx.Done():
			}
		}()
	}
}
