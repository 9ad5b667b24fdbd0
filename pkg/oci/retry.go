package oci

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// tempError is a failure that may pass: the request is worth repeating.
type tempError struct {
	err   error
	after time.Duration // what the server asked for (Retry-After), or 0
}

func (e *tempError) Error() string { return e.err.Error() }
func (e *tempError) Unwrap() error { return e.err }

// maxRetryDelay bounds our own pauses; maxRetryAfter what a server may ask for.
const (
	maxRetryDelay = 10 * time.Second
	maxRetryAfter = time.Minute
)

// retrier counts failures in a row and pauses between them.
type retrier struct {
	s        *Store
	failures int
}

// progress starts the count anew.
func (r *retrier) progress() { r.failures = 0 }

// again pauses and returns nil if what failed with err should be repeated, or
// returns the error to give up with.
func (r *retrier) again(ctx context.Context, err error) error {
	var temp *tempError
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !errors.As(err, &temp) || r.failures >= r.s.opts.Retries {
		return err
	}
	pause := min(r.s.opts.RetryDelay<<min(r.failures, 20), maxRetryDelay)
	pause = pause/2 + rand.N(pause/2+1)
	pause = max(pause, min(temp.after, maxRetryAfter))
	r.failures++
	r.s.log.Warn("image pull: trying again", "failure", r.failures, "pause", pause, "err", err)
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// retry repeats fn while it fails with errors that may pass.
func (s *Store) retry(ctx context.Context, fn func() error) error {
	r := retrier{s: s}
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if err := r.again(ctx, err); err != nil {
			return err
		}
	}
}
