//go:build !linux

package hvtest

import "testing"

// event does not exist here: backends without eventfds do not implement hv.IOEventer.
type event struct{}

func newEvent(t *testing.T) event {
	t.Fatal("a backend takes eventfds on a system that has none")
	return event{}
}

func (event) fd() int                 { return -1 }
func (event) count(*testing.T) uint64 { return 0 }
