// Package hvtest is the conformance suite of [hv.Hypervisor]: tiny guests in
// machine code and the exits, memory and interrupts that they must cause. Every
// backend runs it with one line:
//
//	func TestConformance(t *testing.T) { hvtest.Run(t, openForTest) }
package hvtest

import (
	"runtime"
	"slices"
	"testing"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Open returns a hypervisor that is closed when the test ends.
type Open func(testing.TB) hv.Hypervisor

type suite struct{ open Open }

// test is one case. It runs on a goroutine whose thread ends with it.
type test struct {
	name string
	run  func(*testing.T, *suite)
}

// Run runs the suite.
func Run(t *testing.T, open Open) {
	s := &suite{open}
	tests := slices.Concat(lifeTests, kickTests)
	if runtime.GOARCH == "amd64" {
		tests = slices.Concat(tests, x86Tests)
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			// The thread goes with the goroutine: vCPUs leave it with signals blocked.
			runtime.LockOSThread()
			c.run(t, s)
		})
	}
}
