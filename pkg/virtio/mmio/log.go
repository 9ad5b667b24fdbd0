package mmio

import (
	"sync"
	"time"
)

// site is one place that logs what a guest can cause at will.
type site int

const (
	siteAccess site = iota
	siteNotify
	siteStatus
	siteFeatures
	siteQueue
	siteReset
	siteHost
	sites // number of sites
)

const (
	logBurst = 8                // lines a site may log at once
	logEvery = 10 * time.Second // and then one each
)

// limiter is the token bucket of one site.
type limiter struct {
	mu      sync.Mutex
	used    int       // tokens taken
	since   time.Time // when the bucket last gained a token, or was full
	dropped uint64    // lines swallowed since the last one
}

// allow reports whether a line may be logged, and how many were swallowed before it.
func (l *limiter) allow(now time.Time) (dropped uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if back := int(now.Sub(l.since) / logEvery); back > 0 {
		l.used = max(0, l.used-back)
		l.since = now
	}
	if l.used >= logBurst {
		l.dropped++
		return 0, false
	}
	l.used++
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

func (t *Transport) log(s site, format string, args ...any) {
	if t.cfg.Log == nil {
		return
	}
	dropped, ok := t.limits[s].allow(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		format, args = format+" (and %d like it)", append(args, dropped)
	}
	t.cfg.Log(format, args...)
}
