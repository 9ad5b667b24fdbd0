//go:build !linux

package hvtest

import "testing"

// baton hands a turn from one goroutine to another.
type baton chan struct{}

func newBaton(*testing.T) baton { return make(baton, 1) }

func (b baton) pass() error { b <- struct{}{}; return nil }
func (b baton) wait() error { <-b; return nil }

// urgent has nothing to do here.
func urgent() {}
