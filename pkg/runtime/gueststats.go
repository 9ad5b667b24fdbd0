package runtime

import (
	"context"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// GuestStats is what the kernel of a box's guest counts, at one moment. It is
// the guest's word; what the host pays for a box is the memory and CPU time of
// its VM process. Figures that the guest does not tell are 0.
type GuestStats struct {
	At              time.Time     // by the host's clock
	Uptime          time.Duration // since the guest's kernel began
	CPUUser         time.Duration // since then, all CPUs together
	CPUSystem       time.Duration
	CPUIdle         time.Duration
	CPUSteal        time.Duration // the host ran something else
	MemoryTotal     int64         // bytes, as are all that follow
	MemoryFree      int64
	MemoryAvailable int64 // what programs could still get
	MemoryCache     int64 // page cache
	SwapTotal       int64
	SwapFree        int64
	Load            [3]float64 // average of runnable tasks over 1, 5 and 15 minutes
	Processes       int        // without the guest's kernel threads and agent
	Threads         int        // of those
	DiskTotal       int64      // of the root file system
	DiskUsed        int64
	BlockRead       int64 // from the box's disks, since boot
	BlockWrite      int64
}

// MemoryUsed is what programs and the kernel hold and could not give back.
func (s GuestStats) MemoryUsed() int64 { return max(s.MemoryTotal-s.MemoryAvailable, 0) }

// GuestStats asks the guest of a running box for its figures. A box that does
// not run is ErrInvalidState.
func (b *LiteBox) GuestStats(ctx context.Context) (GuestStats, error) {
	link, err := b.running(ctx, "read the statistics")
	if err != nil {
		return GuestStats{}, err
	}
	m, err := link.client.Stats(ctx)
	if err != nil {
		return GuestStats{}, b.observeError(err, "read the statistics")
	}
	return guestStats(&m, time.Now()), nil
}

// guestStats takes figures as far as they can be true: none is negative.
func guestStats(m *agentapi.GuestStats, at time.Time) GuestStats {
	size := func(v uint64) int64 { return int64(min(v, 1<<62)) }
	s := GuestStats{
		At: at, Uptime: max(m.Uptime, 0), CPUUser: max(m.CPUUser, 0), CPUSystem: max(m.CPUSystem, 0),
		CPUIdle: max(m.CPUIdle, 0), CPUSteal: max(m.CPUSteal, 0),
		MemoryTotal: size(m.MemTotal), MemoryFree: size(m.MemFree), MemoryAvailable: size(m.MemAvail), MemoryCache: size(m.MemCache),
		SwapTotal: size(m.SwapTotal), SwapFree: size(m.SwapFree), Processes: int(min(m.Processes, 1<<30)), Threads: int(min(m.Threads, 1<<30)),
		DiskTotal: size(m.DiskTotal), DiskUsed: size(m.DiskUsed), BlockRead: size(m.BlockRead), BlockWrite: size(m.BlockWrite),
	}
	for i, v := range m.Load {
		s.Load[i] = float64(v) / 100
	}
	return s
}
