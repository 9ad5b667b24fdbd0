package vmm

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Question is what the policy of a box's network asks of a client that decides, see
// [Decide].
type Question struct {
	ID  uint64
	Ask egress.Request
}

// answer is what the client says.
type answer struct {
	ID     uint64
	Action egress.Action
}

var errNoDecider = errors.New("nobody decides on unknown destinations")

// questions brings those of the policy to the client that decides, of which there is
// one at a time: the latest.
type questions struct {
	mu      sync.Mutex
	closed  bool
	next    uint64
	client  chan Question                 // to the client that decides, nil for none
	waiting map[uint64]chan egress.Action // for answers
	arrived chan struct{}                 // closed when a client comes
}

func newQuestions() *questions {
	return &questions{waiting: make(map[uint64]chan egress.Action), arrived: make(chan struct{})}
}

// ask implements [egress.Options].Ask. It waits for a client, and for its answer, as
// long as ctx allows.
func (q *questions) ask(ctx context.Context, r egress.Request) (egress.Action, error) {
	reply := make(chan egress.Action, 1)
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return egress.Deny, errNoDecider
		}
		client, arrived := q.client, q.arrived
		q.next++
		id := q.next
		if client != nil {
			q.waiting[id] = reply
		}
		q.mu.Unlock()
		if client == nil {
			select {
			case <-arrived:
				continue
			case <-ctx.Done():
				return egress.Deny, errNoDecider
			}
		}
		defer q.forget(id)
		select {
		case client <- Question{id, r}:
		case <-ctx.Done():
			return egress.Deny, ctx.Err()
		}
		select {
		case a := <-reply:
			return a, nil
		case <-ctx.Done():
			return egress.Deny, ctx.Err()
		}
	}
}

func (q *questions) forget(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, id)
}

func (q *questions) answer(a answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c := q.waiting[a.ID]; c != nil {
		delete(q.waiting, a.ID)
		c <- a.Action
	}
}

func (q *questions) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.arrived)
		q.arrived = make(chan struct{})
	}
}

// serve has a client decide until it leaves or ctx ends.
func (q *questions) serve(ctx context.Context, conn io.ReadWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := make(chan Question)
	q.mu.Lock()
	q.client = out
	close(q.arrived)
	q.arrived = make(chan struct{})
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		if q.client == out {
			q.client = nil
		}
		q.mu.Unlock()
	}()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for {
			select {
			case question := <-out:
				if writeFrame(conn, question) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	defer cancel()
	for {
		var a answer
		if err := readFrameLimit(conn, &a, requestLimit); err != nil {
			return err
		}
		q.answer(a)
	}
}
