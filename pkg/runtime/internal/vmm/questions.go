package vmm

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Question is what the policy of a box's network asks of a client that decides, see
// [Decide].
type Question struct {
	ID   uint64
	Ask  egress.Request
	Left time.Duration // for the answer; later it counts as a denial

	Replaced bool `json:",omitempty"` // no question, but the last word: another client decides now
}

// answer is what the client says.
type answer struct {
	ID     uint64
	Action egress.Action `json:",omitempty"` // none where it did not come to an answer
}

var (
	errNoDecider = errors.New("vmm: nobody decides on unknown destinations")
	errNoAnswer  = errors.New("vmm: who decides on unknown destinations did not")
)

// questions brings those of the policy to the client that decides, of which there is
// one at a time: the latest. Without one they have no answer, and only a first one
// that is known to come is waited for.
type questions struct {
	first chan struct{} // closed when nobody is waited for any more

	mu     sync.Mutex
	began  bool // first is closed
	next   uint64
	client *decider // nil for none
}

// decider is a client that decides.
type decider struct {
	out     chan Question
	gone    chan struct{} // closed when it has left
	leave   context.CancelFunc
	late    bool                          // replaced by another client; guarded by questions.mu
	waiting map[uint64]chan egress.Action // guarded by questions.mu
}

// newQuestions makes them; expected says that a client is on its way.
func newQuestions(expected bool) *questions {
	q := &questions{first: make(chan struct{})}
	if !expected {
		q.begin()
	}
	return q
}

func (q *questions) begin() {
	if !q.began {
		q.began = true
		close(q.first)
	}
}

// ask implements [egress.Options].Ask: it waits for an answer as long as ctx allows.
func (q *questions) ask(ctx context.Context, r egress.Request) (egress.Action, error) {
	select {
	case <-q.first:
	case <-ctx.Done():
		return egress.Deny, errNoDecider
	}
	for {
		q.mu.Lock()
		d := q.client
		if d == nil {
			q.mu.Unlock()
			return egress.Deny, errNoDecider
		}
		q.next++
		question := Question{ID: q.next, Ask: r}
		reply := make(chan egress.Action, 1)
		d.waiting[question.ID] = reply
		q.mu.Unlock()
		if end, ok := ctx.Deadline(); ok {
			question.Left = time.Until(end)
		}
		a, err := d.ask(ctx, question, reply)
		q.mu.Lock()
		delete(d.waiting, question.ID)
		q.mu.Unlock()
		if errors.Is(err, errNoDecider) { // it left: another may have come
			continue
		}
		return a, err
	}
}

func (d *decider) ask(ctx context.Context, question Question, reply <-chan egress.Action) (egress.Action, error) {
	select {
	case d.out <- question:
	case <-d.gone:
		return egress.Deny, errNoDecider
	case <-ctx.Done():
		return egress.Deny, ctx.Err()
	}
	select {
	case a := <-reply:
		if a == 0 {
			return egress.Deny, errNoAnswer
		}
		return a, nil
	case <-d.gone:
		return egress.Deny, errNoDecider
	case <-ctx.Done():
		return egress.Deny, ctx.Err()
	}
}

func (q *questions) answer(d *decider, a answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c := d.waiting[a.ID]; c != nil {
		delete(d.waiting, a.ID)
		c <- a.Action
	}
}

// serve has a client decide until it leaves, another takes its place, or ctx ends.
func (q *questions) serve(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &decider{out: make(chan Question), gone: make(chan struct{}), leave: cancel, waiting: make(map[uint64]chan egress.Action)}
	q.mu.Lock()
	if q.client != nil {
		q.client.late = true
		q.client.leave()
	}
	q.client = d
	q.begin()
	q.mu.Unlock()
	// Both directions end with ctx, also where the client takes nothing.
	var helpers sync.WaitGroup
	helpers.Go(func() {
		<-ctx.Done()
		conn.SetDeadline(time.Unix(1, 0))
	})
	helpers.Go(func() {
		defer cancel()
		for {
			select {
			case question := <-d.out:
				if writeFrame(conn, question) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	err := q.answers(d, conn)
	q.mu.Lock()
	if q.client == d {
		q.client = nil
	}
	late := d.late
	q.mu.Unlock()
	close(d.gone)
	cancel()
	helpers.Wait()
	if late {
		conn.SetDeadline(time.Now().Add(answerLimit))
		return writeFrame(conn, Question{Replaced: true})
	}
	return err
}

// answers reads those of a client until there are no more.
func (q *questions) answers(d *decider, conn net.Conn) error {
	for {
		var a answer
		if err := readFrameLimit(conn, &a, requestLimit); err != nil {
			return err
		}
		q.answer(d, a)
	}
}
