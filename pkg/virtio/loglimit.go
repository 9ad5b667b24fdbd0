package virtio

import (
	"sync"
	"time"
)

const (
	logBurst = 8                // lines that may be logged at once
	logEvery = 10 * time.Second // and then one each
)

// LogLimit bounds how often one place logs what a guest can cause at will. The
// zero value is ready, and any goroutine may use it.
type LogLimit struct {
	mu      sync.Mutex
	used    int       // tokens taken of the burst
	since   time.Time // when a token last came back
	dropped uint64    // lines swallowed since the last one
}

// Allow reports whether a line may be logged now, and how many were swallowed
// since the one before it.
func (l *LogLimit) Allow() (dropped uint64, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if back := now.Sub(l.since) / logEvery; back > 0 {
		l.used = max(0, l.used-int(min(back, logBurst)))
		l.since = now
	}
	if l.used == logBurst {
		l.dropped++
		return 0, false
	}
	l.used++
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

// Log calls log with one line if Allow says so, and says how many were swallowed
// before it. A nil log means silence.
func (l *LogLimit) Log(log func(format string, args ...any), format string, args ...any) {
	if log == nil {
		return
	}
	dropped, ok := l.Allow()
	if !ok {
		return
	}
	if dropped > 0 {
		format, args = format+" (and %d like it)", append(args, dropped)
	}
	log(format, args...)
}
