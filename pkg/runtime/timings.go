package runtime

import (
	"sync"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// Timing is a moment on the way of a box from its creation to its end.
type Timing struct {
	Phase string // what had just been done
	At    int64  // CLOCK_MONOTONIC in nanoseconds, the same in every process of the host
}

// Phases of [LiteBox.Timings], in order.
const (
	PhaseCreated   = "state"    // row in the state
	PhaseStarting  = "starting" // somebody wants it to run
	PhaseImage     = "image"    // image found or pulled, disk made
	PhaseSpawned   = "spawn"    // VM process started
	PhaseVMM       = "vmm"      // it runs, and has its configuration
	PhaseBuilt     = "build"    // devices and VM made, kernel mapped
	PhaseEntered   = "enter"    // guest running
	PhaseInit      = "kernel"   // guest's PID 1 running
	PhaseHello     = "init"     // agent connected
	PhaseReady     = "root"     // root filesystem mounted, commands served
	PhaseConnected = "connect"  // connected to the agent
	PhaseStarted   = "exec"     // first command running
	PhaseStop      = "command"  // Stop called
	PhaseDown      = "shutdown" // guest has shut down
	PhaseFreed     = "free"     // VM and devices freed
	PhaseStopped   = "teardown" // VM process gone, left-overs removed
)

// timings collects the moments of one box.
type timings struct {
	mu    sync.Mutex
	list  []Timing
	first bool // no command has run since the last boot
}

func (t *timings) note(phase string) { t.noteAt(phase, vmm.Now()) }

// noteFirst notes a phase that only the first command of a boot has.
func (t *timings) noteFirst(phase string) {
	t.mu.Lock()
	first := t.first
	t.first = false
	t.mu.Unlock()
	if first {
		t.note(phase)
	}
}

// booted has the next command count as the first one.
func (t *timings) booted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first = true
}

func (t *timings) noteAt(phase string, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, Timing{phase, at})
}

// noteBoot takes over what the VM process reported of its boot. The guest's
// clock starts with its kernel, so that the time at which init began follows
// from when the agent's hello was sent and received.
func (t *timings) noteBoot(events []vmm.Event) {
	phases := map[vmm.Stage]string{
		vmm.StageSpawn: PhaseVMM, vmm.StageBuild: PhaseBuilt, vmm.StageGuest: PhaseEntered,
		vmm.StageHello: PhaseHello, vmm.StageReady: PhaseReady,
	}
	var entered int64 // when the stage before was reached
	for _, e := range events {
		if e.Guest != nil {
			// Both are the guest's word: the phase lies between its neighbours, whatever it says.
			took := e.Guest.Dialed - e.Guest.Init
			t.noteAt(PhaseInit, e.At-min(max(took.Nanoseconds(), 0), max(e.At-entered, 0)))
		}
		entered = e.At
		if p := phases[e.Stage]; p != "" {
			t.noteAt(p, e.At)
		}
	}
}

// noteEnd takes over what the VM process reported of its end.
func (t *timings) noteEnd(events []vmm.Event) {
	for _, e := range events {
		switch e.Stage {
		case vmm.StageDown:
			t.noteAt(PhaseDown, e.At)
		case vmm.StageEnd:
			t.noteAt(PhaseFreed, e.At)
		}
	}
}

// Timings returns the moments of the box's life that this handle has seen.
func (b *LiteBox) Timings() []Timing {
	b.times.mu.Lock()
	defer b.times.mu.Unlock()
	return append([]Timing(nil), b.times.list...)
}
