package netstack

import "sync"

// crewIdle is how many goroutines wait for something to do.
const crewIdle = 16

// crew are the goroutines of a network, for what may have to wait. Some stay for the next
// job: a new one's stack would have to grow to what that needs, in steps that were a tenth of
// what a connection cost when each had three.
type crew struct {
	mu     sync.Mutex
	idle   []chan func() // each has room for one
	closed bool
	all    sync.WaitGroup
}

// spawn runs f on a goroutine that wait waits for; it reports false when the crew is closed.
func (c *crew) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if last := len(c.idle) - 1; last >= 0 {
		c.idle[last] <- f
		c.idle = c.idle[:last]
		return true
	}
	c.all.Go(func() {
		jobs := make(chan func(), 1)
		for f != nil {
			f()
			f = nil // who waits keeps nothing of the last job alive
			if c.rest(jobs) {
				f = <-jobs
			}
		}
	})
	return true
}

// rest has one of the crew wait for a job, if that makes sense.
func (c *crew) rest(jobs chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) == crewIdle {
		return false
	}
	c.idle = append(c.idle, jobs)
	return true
}

// close has no job begin any more; it reports false when that was so already.
func (c *crew) close() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.closed = true
	for _, jobs := range c.idle {
		close(jobs)
	}
	c.idle = nil
	return true
}

// wait returns when all are gone. The crew must be closed.
func (c *crew) wait() { c.all.Wait() }
