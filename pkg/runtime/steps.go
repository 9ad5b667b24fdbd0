package runtime

// step is a point in the life of a box after which whoever made it may die: what a
// crash there leaves is what TestGuestCrashAtEachStep looks at.
type step string

const (
	stepInsert    step = "create: before the row"
	stepCreated   step = "create: row stored"
	stepLocked    step = "start: folder made and locked"
	stepFiles     step = "start: image recorded, disk made"
	stepSpawned   step = "start: VM process runs, nobody knows"
	stepStarted   step = "start: row names the VM process"
	stepReady     step = "start: guest ready"
	stepExecuting step = "run: command runs"
	stepAsked     step = "stop: VM process told, nobody knows"
	stepStopping  step = "stop: row says stopping"
	stepEnded     step = "stop, remove: VM process gone"
	stepKilling   step = "remove: VM process about to be killed"
	stepTaken     step = "remove: ephemeral row taken over"
	stepEmptied   step = "remove: folder gone"
	stepDeleted   step = "remove: row gone"

	stepVolumeAdded step = "create volume: row stored"
	stepVolumeTaken step = "remove volume: row gone"
)

// reach marks a step.
func (r *Runtime) reach(s step) {
	if r.reached != nil {
		r.reached(s)
	}
}
