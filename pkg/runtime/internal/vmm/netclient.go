package vmm

import (
	"context"
	"errors"
	"sync"

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

// maxDeciding bounds the questions that a client works on at a time: as many as a
// policy asks at once. What comes on top, where decide forgets its context, is denied.
const maxDeciding = 32

// ErrReplaced says that another client decides now.
var ErrReplaced = errors.New("vmm: another client decides now")

// Decide answers what the policy of the box in a folder asks, until ctx ends or the
// box does, which is no error, or another client takes over, which is ErrReplaced.
// Other errors say that it could not begin. decide is called on a goroutine for each question, with the time
// that there is for it, and may still run when Decide returns.
func Decide(ctx context.Context, dir string, decide func(context.Context, egress.Request) egress.Action) error {
	conn, _, err := ask(ctx, dir, request{Op: opDecide})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var writing sync.Mutex
	reply := func(a answer) {
		writing.Lock()
		defer writing.Unlock()
		if writeFrame(conn, a) != nil {
			cancel()
		}
	}
	slots := make(chan struct{}, maxDeciding)
	for {
		var q Question
		if readFrameLimit(conn, &q, requestLimit) != nil {
			return nil
		}
		if q.Replaced {
			return ErrReplaced
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				limited, done := context.WithTimeout(ctx, q.Left)
				defer done()
				a := answer{q.ID, decide(limited, q.Ask)}
				if limited.Err() != nil { // too late: nobody may take it for an answer
					a.Action = 0
				}
				reply(a)
			}()
		default:
			reply(answer{q.ID, egress.Deny})
		}
	}
}
