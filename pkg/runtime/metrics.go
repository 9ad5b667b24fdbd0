package runtime

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// RuntimeMetrics count over all boxes of a home, those that are gone included,
// and over all processes that use it.
type RuntimeMetrics struct {
	BoxesCreatedTotal uint64
	BoxesFailedTotal  uint64 // boxes that failed to start
	NumRunningBoxes   uint64 // now
	TotalCommandsRun  uint64 // calls of Run, and main commands
	TotalRunErrors    uint64 // those that could not be started
}

// Metrics returns the counters of the home.
func (r *Runtime) Metrics(ctx context.Context) (RuntimeMetrics, error) {
	r.counter.flush(ctx)
	db, err := r.state(ctx)
	if err != nil {
		return RuntimeMetrics{}, err
	}
	c, err := db.Counters(ctx, "")
	if err != nil {
		return RuntimeMetrics{}, wrap(ErrDatabase, err, "read the counters")
	}
	m := RuntimeMetrics{
		BoxesCreatedTotal: uint64(c[state.CounterCreated]), BoxesFailedTotal: uint64(c[state.CounterFailed]),
		TotalCommandsRun: uint64(c[state.CounterCommands]), TotalRunErrors: uint64(c[state.CounterErrors]),
	}
	boxes, err := r.ListInfo(ctx)
	for _, b := range boxes {
		if b.Status.IsRunning() {
			m.NumRunningBoxes++
		}
	}
	return m, err
}

// BoxMetrics are a box's counters, and what it uses now. A nil field is not known:
// the box does not run, or was never started, or has no network.
type BoxMetrics struct {
	CommandsRunTotal   uint64
	RunErrorsTotal     uint64
	BytesSentTotal     uint64 // to standard inputs
	BytesReceivedTotal uint64 // from standard outputs and errors

	TotalCreateDuration *time.Duration // from the start to commands being served
	GuestBootDuration   *time.Duration // of that, the guest's kernel and init
	// CPUPercent is what the VM uses of one host CPU, times 100: since the last
	// call on this handle, or on average since the start for the first one.
	CPUPercent  *float64
	MemoryBytes *uint64 // of the VM process, the part of guest RAM that is in use included

	NetworkBytesSent      *uint64
	NetworkBytesReceived  *uint64
	NetworkTCPConnections *uint64
	NetworkTCPErrors      *uint64

	StageFilesystemSetup *time.Duration // part of image preparation, so 0
	StageImagePrepare    *time.Duration // image found or pulled, disk made
	StageGuestRootfs     *time.Duration // root filesystem joined and mounted in the guest
	StageBoxConfig       *time.Duration // VM built: memory, kernel, devices
	StageBoxSpawn        *time.Duration // VM process started
	StageContainerInit   *time.Duration // kernel, init and agent
}

// Metrics returns the box's metrics, without starting it.
func (b *LiteBox) Metrics(ctx context.Context) (BoxMetrics, error) {
	b.rt.counter.flush(ctx)
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return BoxMetrics{}, err
	}
	db, err := b.rt.state(ctx)
	if err != nil {
		return BoxMetrics{}, err
	}
	c, err := db.Counters(ctx, row.ID)
	if err != nil {
		return BoxMetrics{}, wrap(ErrDatabase, err, "metrics of box %s", b)
	}
	m := BoxMetrics{
		CommandsRunTotal: uint64(c[state.CounterCommands]), RunErrorsTotal: uint64(c[state.CounterErrors]),
		BytesSentTotal: uint64(c[state.CounterSent]), BytesReceivedTotal: uint64(c[state.CounterReceived]),
	}
	if row.Timings != "" {
		var s stages
		if err := json.Unmarshal([]byte(row.Timings), &s); err != nil {
			return BoxMetrics{}, wrap(ErrMetadata, err, "timings of box %s", b)
		}
		s.fill(&m)
	}
	if BoxStatus(row.Status).IsActive() {
		b.usage.measure(row, &m)
		b.measureNetwork(ctx, &m)
	}
	return m, nil
}

// measureNetwork asks the VM process; a box without a network, or one that has just
// ended, has no figures.
func (b *LiteBox) measureNetwork(ctx context.Context, m *BoxMetrics) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, _, err := vmm.NetworkState(ctx, b.dir())
	if err != nil || s == nil {
		return
	}
	m.NetworkBytesSent, m.NetworkBytesReceived = &s.Sent, &s.Received
	m.NetworkTCPConnections, m.NetworkTCPErrors = &s.TCPActive, &s.TCPErrors
}

// stages are how long the parts of a boot took, as the state keeps them.
type stages struct {
	Total, Guest, Image, Spawn, Config, Init, Root time.Duration
}

// stagesOf takes the stages of the latest boot out of the moments of a box.
func stagesOf(list []Timing) stages {
	at := map[string]int64{}
	for _, t := range list {
		at[t.Phase] = t.At // later boots overwrite earlier ones
	}
	between := func(from, to string) time.Duration {
		return max(time.Duration(at[to]-at[from]), 0)
	}
	s := stages{
		Image: between(PhaseStarting, PhaseImage), Spawn: between(PhaseImage, PhaseVMM),
		Config: between(PhaseVMM, PhaseBuilt), Init: between(PhaseEntered, PhaseHello), Root: between(PhaseHello, PhaseReady),
	}
	s.Total, s.Guest = between(PhaseStarting, PhaseReady), between(PhaseEntered, PhaseReady)
	return s
}

func (s *stages) fill(m *BoxMetrics) {
	var none time.Duration
	m.TotalCreateDuration, m.GuestBootDuration = &s.Total, &s.Guest
	m.StageFilesystemSetup, m.StageImagePrepare = &none, &s.Image
	m.StageGuestRootfs, m.StageBoxConfig = &s.Root, &s.Config
	m.StageBoxSpawn, m.StageContainerInit = &s.Spawn, &s.Init
}

// keepTimings lets later processes know how long the boot took.
func (b *LiteBox) keepTimings(ctx context.Context) {
	text, err := json.Marshal(stagesOf(b.Timings()))
	if err == nil {
		var db *state.DB
		if db, err = b.rt.state(ctx); err == nil {
			err = db.SetTimings(ctx, string(b.id), string(text))
		}
	}
	if err != nil { // the box runs; only a figure is missing
		b.rt.opts.Log.Warn("keep the timings of a boot", "box", b.id, "error", err)
	}
}

// usageMeter measures what a VM process uses between two looks.
type usageMeter struct {
	mu   sync.Mutex
	last vmm.Usage // zero before the first
}

func (u *usageMeter) measure(row *state.Box, m *BoxMetrics) {
	now, err := vmm.ReadUsage(row.PID, row.PIDStart)
	if err != nil {
		return // it has just ended, or this system does not tell
	}
	u.mu.Lock()
	before := u.last
	u.last = now
	u.mu.Unlock()
	m.MemoryBytes = &now.Memory
	if before.PID != now.PID || before.Start != now.Start {
		before = vmm.Usage{At: now.Began}
	}
	if d := now.At - before.At; d > 0 {
		p := 100 * float64(now.CPU-before.CPU) / float64(d)
		m.CPUPercent = &p
	}
}
