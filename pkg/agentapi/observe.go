package agentapi

import "time"

// Limits of a [ProcessList].
const (
	MaxProcesses   = 3072 // entries; more are counted only
	MaxCommandLine = 256  // bytes of a command line
)

// ListProcesses asks for the box's processes, without the kernel's threads and
// without the agent; answered by [ProcessList].
type ListProcesses struct{}

func (*ListProcesses) Type() Type      { return TypeListProcesses }
func (*ListProcesses) encode(*encoder) {}
func (*ListProcesses) decode(*decoder) {}

// ProcessInfo is one process, as /proc/<pid> has it (proc(5)).
type ProcessInfo struct {
	PID, PPID uint32
	UID       uint32 // effective
	State     uint8  // "R", "S", "D", "Z", "T", ...
	Threads   uint32
	TTY       uint32        // device number of the controlling terminal, 0 for none
	RSS       uint64        // bytes
	CPU       time.Duration // user and system time
	Start     time.Duration // CLOCK_BOOTTIME
	Command   string        // arguments with spaces between, or "[name]" where there are none; at most MaxCommandLine bytes
}

// processMin is the least that a ProcessInfo takes on the wire.
const processMin = 4*3 + 1 + 4 + 4 + 8*3 + 4

// ProcessList answers ListProcesses.
type ProcessList struct {
	Now   time.Duration // CLOCK_BOOTTIME, to which Start relates
	Total uint32        // processes there are; more than len(List) when not all fit
	List  []ProcessInfo
}

func (*ProcessList) Type() Type { return TypeProcessList }
func (m *ProcessList) encode(e *encoder) {
	e.i64(int64(m.Now))
	e.u32(m.Total)
	e.u32(uint32(len(m.List)))
	for i := range m.List {
		p := &m.List[i]
		e.u32(p.PID)
		e.u32(p.PPID)
		e.u32(p.UID)
		e.u8(p.State)
		e.u32(p.Threads)
		e.u32(p.TTY)
		e.u64(p.RSS)
		e.i64(int64(p.CPU))
		e.i64(int64(p.Start))
		e.str(p.Command)
	}
}
func (m *ProcessList) decode(d *decoder) {
	m.Now, m.Total = time.Duration(d.i64()), d.u32()
	n := d.count(processMin)
	if n > MaxProcesses {
		d.bad = true
		return
	}
	if n > 0 {
		m.List = make([]ProcessInfo, n)
	}
	for i := range m.List {
		p := &m.List[i]
		p.PID, p.PPID, p.UID, p.State = d.u32(), d.u32(), d.u32(), d.u8()
		p.Threads, p.TTY, p.RSS = d.u32(), d.u32(), d.u64()
		p.CPU, p.Start = time.Duration(d.i64()), time.Duration(d.i64())
		if p.Command = d.str(); len(p.Command) > MaxCommandLine {
			d.bad = true
		}
	}
}

// GetStats asks for [GuestStats].
type GetStats struct{}

func (*GetStats) Type() Type      { return TypeGetStats }
func (*GetStats) encode(*encoder) {}
func (*GetStats) decode(*decoder) {}

// GuestStats is what the guest's kernel counts, at one moment. Figures that
// could not be read are 0.
type GuestStats struct {
	Uptime     time.Duration // CLOCK_BOOTTIME
	CPUUser    time.Duration // since boot, all CPUs together; nice included
	CPUSystem  time.Duration // kernel, interrupts included
	CPUIdle    time.Duration // waiting for disks included
	CPUSteal   time.Duration // the host ran something else
	MemTotal   uint64        // bytes, as are the next five
	MemFree    uint64        //
	MemAvail   uint64        // what programs could still get
	MemCache   uint64        // page cache
	SwapTotal  uint64        //
	SwapFree   uint64        //
	Load       [3]uint32     // average of runnable tasks over 1, 5 and 15 min, in hundredths
	Processes  uint32        // without the kernel's threads and the agent
	Threads    uint32        // of those
	DiskTotal  uint64        // bytes of the root file system
	DiskUsed   uint64        //
	BlockRead  uint64        // bytes read from the box's disks since boot
	BlockWrite uint64        //
}

func (*GuestStats) Type() Type { return TypeGuestStats }
func (m *GuestStats) encode(e *encoder) {
	for _, v := range m.durations() {
		e.i64(int64(*v))
	}
	for _, v := range m.numbers() {
		e.u64(*v)
	}
	for _, v := range m.Load {
		e.u32(v)
	}
	e.u32(m.Processes)
	e.u32(m.Threads)
}
func (m *GuestStats) decode(d *decoder) {
	for _, v := range m.durations() {
		*v = time.Duration(d.i64())
	}
	for _, v := range m.numbers() {
		*v = d.u64()
	}
	for i := range m.Load {
		m.Load[i] = d.u32()
	}
	m.Processes, m.Threads = d.u32(), d.u32()
}

func (m *GuestStats) durations() [5]*time.Duration {
	return [...]*time.Duration{&m.Uptime, &m.CPUUser, &m.CPUSystem, &m.CPUIdle, &m.CPUSteal}
}

func (m *GuestStats) numbers() [10]*uint64 {
	return [...]*uint64{
		&m.MemTotal, &m.MemFree, &m.MemAvail, &m.MemCache, &m.SwapTotal, &m.SwapFree,
		&m.DiskTotal, &m.DiskUsed, &m.BlockRead, &m.BlockWrite,
	}
}
