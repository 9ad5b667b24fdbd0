package main

import (
	"context"
	"errors"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// atOnce bounds how many boxes are dealt with at a time: stopping takes each its
// grace, and a restart the memory of a boot.
const atOnce = 8

// errNothingDone is of a box that is none of those that a command was done to, and
// no failure either.
var errNothingDone = errors.New("nothing to do")

// onBoxes does the same for several boxes, a few at a time: all are tried, the
// names of those that worked are printed in the order given, and what failed is
// told line by line.
func onBoxes(ctx context.Context, names []string, do func(name string) error) error {
	results := make([]chan error, len(names))
	slots := make(chan struct{}, atOnce)
	for i, name := range names {
		results[i] = make(chan error, 1)
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := ctx.Err(); err != nil {
				results[i] <- err
				return
			}
			results[i] <- do(name)
		}()
	}
	var failed failures
	for i, name := range names {
		err := <-results[i]
		switch {
		case err == nil:
			say(name)
		case errors.Is(err, errNothingDone):
		case signalOf(ctx) == 0: // otherwise each would just say that it was given up
			failed.add(err)
		}
	}
	return interrupted(ctx, failed.code())
}

// onHandles is onBoxes with a handle of each box.
func onHandles(ctx context.Context, rt *runtime.Runtime, names []string, do func(*runtime.LiteBox) error) error {
	return onBoxes(ctx, names, func(name string) error {
		b, err := rt.Get(ctx, name)
		if err != nil {
			return err
		}
		return do(b)
	})
}

// failures tells of what went wrong with each of several boxes as it happens, and
// makes an exit code of it.
type failures struct{ first *exitError }

func (f *failures) add(err error) {
	if err == nil {
		return
	}
	code := exitSome
	var exit *exitError
	if errors.As(err, &exit) { // a command that was not found, and such
		code, err = exit.code, exit.err
	}
	warn(err)
	if f.first == nil {
		f.first = &exitError{code: code}
	}
}

// code is the error that ends the program after all has been said.
func (f *failures) code() error {
	if f.first == nil {
		return nil
	}
	return f.first
}
