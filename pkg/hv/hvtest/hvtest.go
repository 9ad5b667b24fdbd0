// Package hvtest is the conformance suite of [hv.Hypervisor]: tiny guests in
// machine code and the exits, memory and interrupts that they must cause. Every
// backend runs it with one line:
//
//	func TestConformance(t *testing.T) { hvtest.Run(t, openForTest) }
package hvtest

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Open returns a hypervisor that is closed when the test ends.
type Open func(testing.TB) hv.Hypervisor

// Option changes a run of the suite.
type Option func(*suite)

// Lacking skips what needs the named abilities on a host whose hypervisor is
// known to be incomplete, and gives the remedy. A backend must detect them, and
// must not use it where the tests are required to run.
func Lacking(remedy string, abilities ...string) Option {
	return func(s *suite) { s.lacking, s.remedy = abilities, remedy }
}

// Abilities beyond plain instructions, ports and MMIO that cases need.
const (
	NeedInterrupts = "interrupts" // lgdt, lidt, iret and an IOAPIC
	NeedLong       = "long mode"
	NeedSMP        = "INIT and SIPI"
	NeedStrings    = "string I/O"
)

type suite struct {
	open    Open
	lacking []string
	remedy  string
}

// test is one case. It runs on a goroutine whose thread ends with it.
type test struct {
	name  string
	needs []string
	run   func(*testing.T, *suite)
}

// Run runs the suite.
func Run(t *testing.T, open Open, options ...Option) {
	s := &suite{open: open}
	for _, o := range options {
		o(s)
	}
	tests := slices.Concat(lifeTests, kickTests)
	if runtime.GOARCH == "amd64" {
		tests = slices.Concat(tests, x86Tests)
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range c.needs {
				if slices.Contains(s.lacking, n) {
					t.Skipf("this host's hypervisor lacks: %s (%s)", strings.Join(s.lacking, ", "), s.remedy)
				}
			}
			// The thread goes with the goroutine: vCPUs leave it with signals blocked.
			runtime.LockOSThread()
			c.run(t, s)
		})
	}
}
