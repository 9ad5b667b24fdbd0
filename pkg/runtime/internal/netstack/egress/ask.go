package egress

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	defaultAskTimeout = time.Minute
	defaultAskTTL     = 10 * time.Minute
	silenceTTL        = 10 * time.Second // before the same is asked again when nobody answered

	maxQuestions = 32   // open at once; what comes on top is denied
	maxAnswers   = 4096 // remembered
)

// question is a destination that is asked about: a name with all its flows, a name
// with a protocol and a port, or a flow to an address.
type question struct {
	name string
	flow Flow
}

// answer is empty until done is closed.
type answer struct {
	done   chan struct{}
	action Action // zero when nobody answered
	until  time.Time
}

// asker asks about destinations that no rule matches, each once at a time.
type asker struct {
	opts Options
	ctx  context.Context // ended by close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	running int // calls of opts.Ask
	open    map[question]*answer
	answers map[question]*answer
}

func newAsker(o Options) *asker {
	if o.AskTimeout <= 0 {
		o.AskTimeout = defaultAskTimeout
	}
	if o.AskTTL <= 0 {
		o.AskTTL = defaultAskTTL
	}
	a := &asker{opts: o, open: make(map[question]*answer), answers: make(map[question]*answer)}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

func (a *asker) close() {
	a.mu.Lock()
	a.stop()
	a.mu.Unlock()
	a.wg.Wait()
}

// known returns an answer that still holds.
// Preconditions: a.mu is held.
func (a *asker) known(q question) *answer {
	if r := a.answers[q]; r != nil && a.opts.Now().Before(r.until) {
		return r
	}
	return nil
}

// cached completes a verdict by the answer that is known; its reason is NoAnswer
// when there is none.
func (a *asker) cached(q question, v Verdict) Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known(q).complete(v)
}

func (r *answer) complete(v Verdict) Verdict {
	v.Reason = NoAnswer
	if r != nil && r.action != 0 {
		v.Allow, v.Reason = r.action == Allow, ByAnswer
	}
	return v
}

// verdict asks, or waits for who asked, or remembers.
func (a *asker) verdict(ctx context.Context, q question, r Request) Verdict {
	v := Verdict{Name: r.Name, Reason: NoAnswer}
	if a.opts.Ask == nil {
		return v
	}
	a.mu.Lock()
	if known := a.known(q); known != nil {
		a.mu.Unlock()
		return known.complete(v)
	}
	o := a.open[q]
	if o == nil {
		if a.running >= maxQuestions || a.ctx.Err() != nil {
			a.mu.Unlock()
			return v
		}
		o = &answer{done: make(chan struct{})}
		a.open[q] = o
		a.running++
		a.wg.Add(1)
		go a.run(q, r, o)
	}
	a.mu.Unlock()
	select {
	case <-o.done:
		return o.complete(v)
	case <-ctx.Done():
		return v
	}
}

func (a *asker) run(q question, r Request, o *answer) {
	defer a.wg.Done()
	ctx, cancel := context.WithTimeout(a.ctx, a.opts.AskTimeout)
	defer cancel()
	// Whoever waits must not wait for a function that ignores its context.
	stop := context.AfterFunc(ctx, func() { a.settle(q, o, 0) })
	action, err := a.opts.Ask(ctx, r)
	if err != nil || ctx.Err() != nil {
		action = 0
	} else if action != Allow {
		action = Deny
	}
	stop()
	a.settle(q, o, action)
	a.mu.Lock()
	a.running--
	a.mu.Unlock()
}

// settle notes the answer to a question, unless it has one.
func (a *asker) settle(q question, o *answer, action Action) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[q] != o {
		return
	}
	delete(a.open, q)
	now := a.opts.Now()
	o.action, o.until = action, now.Add(a.opts.AskTTL)
	if action == 0 {
		o.until = now.Add(silenceTTL)
	}
	if len(a.answers) >= maxAnswers {
		a.forget(now)
	}
	a.answers[q] = o
	close(o.done)
}

// forget makes room among the answers: those that hold no longer go, or else any.
// Preconditions: a.mu is held.
func (a *asker) forget(now time.Time) {
	for q, r := range a.answers {
		if !now.Before(r.until) {
			delete(a.answers, q)
		}
	}
	for q := range a.answers {
		if len(a.answers) < maxAnswers {
			return
		}
		delete(a.answers, q)
	}
}

// allowsName tells whether an answer allows a name, for all flows or for this one.
func (a *asker) allowsName(name string, f Flow) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range []question{
		{name: name},
		{name: name, flow: Flow{f.Protocol, netip.AddrPortFrom(netip.Addr{}, f.Dst.Port())}},
	} {
		if r := a.known(q); r != nil && r.action == Allow {
			return true
		}
	}
	return false
}
