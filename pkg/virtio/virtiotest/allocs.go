package virtiotest

import "testing"

// NoAllocations fails the test if a call of f, what other goroutines do for it
// included, allocates. The first call may. Under the race detector, which
// allocates by itself, f is only called.
func NoAllocations(t testing.TB, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(200, f); n != 0 && !raceEnabled {
		t.Errorf("virtiotest: %v allocations a call", n)
	}
}
