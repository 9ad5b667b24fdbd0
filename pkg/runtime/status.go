package runtime

import (
	"context"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// BoxStatus is where a box is in its life:
//
//	Create → Configured;  Start → Running;  Stop → Stopping → Stopped;  Start again from Stopped
type BoxStatus string

// Statuses.
const (
	StatusUnknown    BoxStatus = "unknown"    // cannot be told: BoxInfo.Reason says why
	StatusConfigured BoxStatus = "configured" // created, never started
	StatusRunning    BoxStatus = "running"
	StatusStopping   BoxStatus = "stopping" // shutting down
	StatusStopped    BoxStatus = "stopped"  // can be started again
)

// valid reports whether there is such a status.
func (s BoxStatus) valid() bool {
	return s == StatusUnknown || s == StatusConfigured || s.IsActive() || s == StatusStopped
}

// IsActive reports whether the box has a VM process.
func (s BoxStatus) IsActive() bool { return s == StatusRunning || s == StatusStopping }

// IsRunning reports whether the box is Running.
func (s BoxStatus) IsRunning() bool { return s == StatusRunning }

// IsConfigured reports whether the box is Configured.
func (s BoxStatus) IsConfigured() bool { return s == StatusConfigured }

// IsStopped reports whether the box is Stopped.
func (s BoxStatus) IsStopped() bool { return s == StatusStopped }

// IsTransient reports whether the status will change by itself.
func (s BoxStatus) IsTransient() bool { return s == StatusStopping }

// CanStart reports whether Start boots the box.
func (s BoxStatus) CanStart() bool { return s == StatusConfigured || s == StatusStopped }

// CanStop reports whether Stop has something to do.
func (s BoxStatus) CanStop() bool { return s == StatusRunning }

// CanRemove reports whether Remove works without force.
func (s BoxStatus) CanRemove() bool {
	return s == StatusConfigured || s == StatusStopped || s == StatusUnknown
}

// CanRun reports whether Run works, starting the box if need be.
func (s BoxStatus) CanRun() bool {
	return s == StatusConfigured || s == StatusRunning || s == StatusStopped
}

// BoxInfo is what can be said of a box without touching its VM.
type BoxInfo struct {
	ID          BoxID
	Name        string // empty for none
	Status      BoxStatus
	Reason      string // why, where Status needs an explanation
	CreatedAt   time.Time
	LastUpdated time.Time // of the last change of Status
	PID         int       // of the VM process, 0 for none
	Image       string    // reference, or path of the root filesystem
	CPUs        int
	MemoryMiB   int
	Labels      map[string]string

	Command    []string  // the main command, with what the image adds as soon as it has been started
	StartedAt  time.Time // of the last start; zero for never
	FinishedAt time.Time // of the stop that followed; zero while it runs
	// ExitCode is how the main command ended: its exit code, or minus the number
	// of the signal. It is nil while it has not, and where nobody knows.
	ExitCode *int
	Ports    []PortSpec // that lead to the box while it runs, with the numbers that were chosen
	Mounts   []Mount    // its volumes and tmpfs mounts, in the order in which they are mounted

	start uint64 // of the process PID, which together name it
}

// CPUTime is the user and system time that the VM process has used so far, the
// guest's included; false when there is none, or this system does not tell.
func (i BoxInfo) CPUTime() (time.Duration, bool) {
	if i.PID == 0 {
		return 0, false
	}
	u, err := vmm.ReadUsage(i.PID, i.start)
	return u.CPU, err == nil
}

// BoxState is what changes of a box while it lives.
type BoxState struct {
	Status      BoxStatus
	PID         int         // of the VM process, 0 for none
	ContainerID ContainerID // the same for the box's whole life; empty for boxes of versions that had none
	LastUpdated time.Time   // of the last change of Status
}

// State returns the box's state.
func (b *LiteBox) State(ctx context.Context) (BoxState, error) {
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return BoxState{}, err
	}
	s := BoxState{
		Status: BoxStatus(row.Status), ContainerID: ContainerID(row.ContainerID),
		LastUpdated: row.UpdatedAt.UTC(),
	}
	if s.Status.IsActive() {
		s.PID = row.PID
	}
	return s, nil
}
