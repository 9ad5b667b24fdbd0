package oci

import (
	"context"
	"errors"
	"io"
	"time"
)

var errStalled = errors.New("nothing received")

// stallWatch cancels a request during which nothing happens for too long.
type stallWatch struct {
	timer  *time.Timer
	limit  time.Duration
	cancel context.CancelCauseFunc
}

func watchStall(ctx context.Context, limit time.Duration) (context.Context, *stallWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &stallWatch{
		timer:  time.AfterFunc(limit, func() { cancel(errStalled) }),
		limit:  limit,
		cancel: cancel,
	}
}

func (w *stallWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// watchedBody is a response body that ends with a tempError when the
// connection breaks or stalls.
type watchedBody struct {
	r     *registry
	ctx   context.Context
	stall *stallWatch
	rc    io.ReadCloser
}

func (b *watchedBody) Read(p []byte) (int, error) {
	// Only the time spent waiting for the network counts, not what the
	// reader does between its calls.
	b.stall.timer.Reset(b.stall.limit)
	n, err := b.rc.Read(p)
	b.stall.timer.Stop()
	if err != nil && err != io.EOF {
		err = b.r.requestError(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.rc.Close()
	b.stall.stop()
	return err
}
