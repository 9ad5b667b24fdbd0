package vmm

import (
	"sync"
	"time"
)

// patience is a time limit that can be made shorter while it runs.
type patience struct {
	over chan struct{} // closed when it is

	mu    sync.Mutex
	end   time.Time
	timer *time.Timer
}

func newPatience(d time.Duration) *patience {
	p := &patience{over: make(chan struct{}), end: time.Now().Add(d)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(d, func() { close(p.over) })
	return p
}

// shorten lets d from now be the limit, if that is sooner.
func (p *patience) shorten(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end := time.Now().Add(d); end.Before(p.end) && p.timer.Stop() {
		p.end = end
		p.timer.Reset(d)
	}
}

// left is what remains, zero when it is over.
func (p *patience) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(time.Until(p.end), 0)
}
