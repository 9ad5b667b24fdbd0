// Package vmm is the one process per box that runs its virtual machine, and how
// another process starts, watches and ends it.
//
// The process is the calling program's own executable, run again under another
// name (see hook.go). Its file descriptor 3 is one end of a socket pair: the
// configuration comes in, [Event]s go out, and when the other end closes, the
// parent is gone. The box's folder holds box.sock, over which any process of
// the same user reaches the guest's vsock ports.
package vmm

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// Config is all that a VMM process needs to know. It travels in memory, never
// on a command line or through a file.
type Config struct {
	BoxID     string
	Dir       string // the box's folder
	CPUs      int
	MemoryMiB int
	Kernel    string // file names
	Initrd    string
	Cmdline   string
	Rootfs    []Part // read-only root filesystem, one flat disk; empty for none
	Disk      string // writable disk; empty for none
	Setup     agentapi.Setup
	Mounts    []Mount  // in the order in which they are mounted
	Main      *Main    // the box's own command; nil for none
	Network   *Network // nil for none

	Detach    bool          // outlive the parent
	Ephemeral bool          // at the end remove Dir, or all of it but the report where somebody may ask for that
	Stall     time.Duration // give a boot up after so long without a sign of life
	Grace     time.Duration // for the guest's processes between SIGTERM and SIGKILL
}

// Mount is a file system that the box gets at a path.
type Mount struct {
	Point agentapi.MountPoint // Kind, Tag, File and Populate of a share are set by the VMM process
	Share *Share              // nil for a tmpfs
}

// Share is what of the host goes there.
type Share struct {
	Path        string // of a folder or a regular file
	Populate    bool   // an empty folder first gets what the image has at the mount point
	KeepOwners  bool   // owners and modes are kept in extended attributes, not squashed
	SharedLocks bool   // locks hold against other boxes and the host
}

// Part is a piece of a file on a disk made of several. Length is in bytes; the
// next part starts at the next 4 KiB.
type Part struct {
	Path   string
	Offset int64
	Length int64
}

// Where the guest finds its disks: the order of the devices decides.
const (
	RootDevice  = "/dev/vda"
	WriteDevice = "/dev/vdb"
)

// Names in a box's folder.
const (
	socketName  = "box.sock"
	consoleName = "console.log" // what the guest's kernel and init print
	logName     = "vmm.log"     // what the VMM process prints
	reportName  = "report.json" // how the VMM process ended
)

// ConsolePath names the console log of the box in this folder.
func ConsolePath(dir string) string { return filepath.Join(dir, consoleName) }

// Stage is how far a VM has come.
type Stage string

// Stages in order.
const (
	StageSpawn Stage = "process started"
	StageBuild Stage = "virtual machine built"
	StageGuest Stage = "kernel running"
	StageHello Stage = "guest init running"
	StageReady Stage = "ready"
	StageMain  Stage = "command running" // of boxes with a main command
	StageDown  Stage = "guest stopped"
	StageEnd   Stage = "ended"
)

// Event is one message from the VMM process to its parent.
type Event struct {
	Stage  Stage
	At     int64           // CLOCK_MONOTONIC, ns
	Guest  *agentapi.Hello `json:",omitempty"` // with StageHello
	Ready  *agentapi.Ready `json:",omitempty"` // with StageReady
	Ports  []Port          `json:",omitempty"` // with StageBuild: those that are forwarded
	Report *Report         `json:",omitempty"` // with StageEnd
}

// Report says how a VM ended. It is also left as a file in the box's folder.
type Report struct {
	Stage     Stage             // reached before the end
	Cause     Cause             // why it ended
	Ended     time.Time         `json:",omitzero"`
	Detail    string            `json:",omitempty"` // one line
	Hint      string            `json:",omitempty"` // what to do about it
	Exits     map[string]uint64 `json:",omitempty"` // returns to the VMM by reason
	LastExits []string          `json:",omitempty"`
	Registers string            `json:",omitempty"`
	Console   string            `json:",omitempty"` // tail
	Log       string            `json:",omitempty"` // tail of the VMM's own output
	Main      *MainResult       `json:",omitempty"` // how the box's main command ended, where that is known
	LogLost   uint64            `json:",omitempty"` // bytes of its output that the log could not take
}

// Cause is the kind of end.
type Cause string

// Causes.
const (
	CauseStop     Cause = "stopped"              // asked to by the host
	CauseParent   Cause = "parent process ended" // and the box was not detached
	CauseMain     Cause = "command ended"        // the box's own
	CauseGuest    Cause = "guest shut down"
	CausePanic    Cause = "guest kernel panic"
	CauseFailed   Cause = "virtual machine failed"
	CauseStall    Cause = "no sign of life"
	CauseConfig   Cause = "could not be built"
	CauseSetup    Cause = "guest could not be set up"
	CauseMount    Cause = "a mount does not fit the image"
	CauseVMMDeath Cause = "VMM process died" // seen by the parent
)

// Clean reports whether the VM ended the way somebody wanted.
func (r *Report) Clean() bool {
	return r.Cause == CauseStop || r.Cause == CauseParent || r.Cause == CauseGuest || r.Cause == CauseMain
}

func (r *Report) decode(b []byte) error {
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("vmm: report: %w", err)
	}
	return nil
}
