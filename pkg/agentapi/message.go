package agentapi

import "time"

// Type tells messages apart on the wire.
type Type uint8

const (
	TypeHello    Type = 1  // guest, unasked, first
	TypeSetup    Type = 2  // host; answered by Ready
	TypeReady    Type = 3  // guest
	TypeExec     Type = 4  // host; answered by Started, later Exited
	TypeStarted  Type = 5  // guest
	TypeExited   Type = 6  // guest, unasked
	TypeSignal   Type = 7  // host; answered by OK, as are the next four
	TypeKill     Type = 8  // host
	TypeResize   Type = 9  // host
	TypePing     Type = 10 // host
	TypeShutdown Type = 11 // host; answered when processes are gone and disks are clean
	TypeOK       Type = 12 // guest
	TypeError    Type = 13 // guest
	TypePowerOff Type = 14 // guest, unasked
	TypeLog      Type = 15 // guest, unasked

	TypeStatPath      Type = 16 // host; answered by PathInfo
	TypePathInfo      Type = 17 // guest
	TypeArchiveGet    Type = 18 // host; answered when the stream has ended
	TypeArchivePut    Type = 19 // host; answered when all is unpacked
	TypeListProcesses Type = 20 // host; answered by ProcessList
	TypeProcessList   Type = 21 // guest
	TypeGetStats      Type = 22 // host; answered by GuestStats
	TypeGuestStats    Type = 23 // guest

	TypeMount Type = 24 // host; answered by OK
)

var typeNames = [...]string{
	TypeHello: "hello", TypeSetup: "setup", TypeReady: "ready", TypeExec: "exec", TypeStarted: "started",
	TypeExited: "exited", TypeSignal: "signal", TypeKill: "kill", TypeResize: "resize", TypePing: "ping",
	TypeShutdown: "shutdown", TypeOK: "ok", TypeError: "error", TypePowerOff: "power-off", TypeLog: "log",
	TypeStatPath: "stat", TypePathInfo: "path-info", TypeArchiveGet: "archive-get", TypeArchivePut: "archive-put",
	TypeListProcesses: "list-processes", TypeProcessList: "process-list", TypeGetStats: "get-stats", TypeGuestStats: "guest-stats",
	TypeMount: "mount",
}

func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return "type " + utoa(uint64(t))
}

func newMessage(t Type) Message {
	switch t {
	case TypeHello:
		return new(Hello)
	case TypeSetup:
		return new(Setup)
	case TypeReady:
		return new(Ready)
	case TypeExec:
		return new(ExecSpec)
	case TypeStarted:
		return new(Started)
	case TypeExited:
		return new(Exited)
	case TypeSignal:
		return new(Signal)
	case TypeKill:
		return new(Kill)
	case TypeResize:
		return new(Resize)
	case TypePing:
		return new(Ping)
	case TypeShutdown:
		return new(Shutdown)
	case TypeOK:
		return new(OK)
	case TypeError:
		return new(Error)
	case TypePowerOff:
		return new(PowerOff)
	case TypeLog:
		return new(Log)
	case TypeStatPath:
		return new(StatPath)
	case TypePathInfo:
		return new(PathInfo)
	case TypeArchiveGet:
		return new(ArchiveGet)
	case TypeArchivePut:
		return new(ArchivePut)
	case TypeListProcesses:
		return new(ListProcesses)
	case TypeProcessList:
		return new(ProcessList)
	case TypeGetStats:
		return new(GetStats)
	case TypeGuestStats:
		return new(GuestStats)
	case TypeMount:
		return new(Mount)
	}
	return nil
}

// Hello opens every control connection.
type Hello struct {
	Version uint32        // [Version] of the agent
	Agent   string        // build of the agent
	Kernel  string        // release, as uname -r
	CPUs    uint32        // online
	Memory  uint64        // bytes of RAM the kernel manages
	Init    time.Duration // CLOCK_BOOTTIME when PID 1 began: what the kernel took
	Dialed  time.Duration // CLOCK_BOOTTIME when this Hello was made
	Ready   bool          // Setup is done already: Setup will be refused, Exec served
}

func (*Hello) Type() Type { return TypeHello }
func (m *Hello) encode(e *encoder) {
	e.u32(m.Version)
	e.str(m.Agent)
	e.str(m.Kernel)
	e.u32(m.CPUs)
	e.u64(m.Memory)
	e.i64(int64(m.Init))
	e.i64(int64(m.Dialed))
	e.bool(m.Ready)
}
func (m *Hello) decode(d *decoder) {
	m.Version = d.u32()
	m.Agent, m.Kernel = d.str(), d.str()
	m.CPUs, m.Memory = d.u32(), d.u64()
	m.Init, m.Dialed = time.Duration(d.i64()), time.Duration(d.i64())
	m.Ready = d.bool()
}

// RootKind says what a box's root directory is made of.
type RootKind uint8

const (
	RootNone  RootKind = 0 // stay in the initramfs: rescue and tests
	RootDisk  RootKind = 1 // overlayfs of Lower and an ext4 on Upper, grown to the device
	RootTmpfs RootKind = 2 // overlayfs of Lower and a tmpfs of Size bytes
)

// Root names the disks of a box.
type Root struct {
	Kind  RootKind
	Lower string // block device with the image, e.g. "/dev/vda"
	Type  string // its file system; empty means "erofs"
	Upper string // block device of the writable ext4, e.g. "/dev/vdb" (RootDisk)
	Size  uint64 // bytes the writable side may have; 0 means the whole device, or half of RAM
}

// Host is a line of /etc/hosts.
type Host struct {
	Addr  string
	Names []string
}

// Network is the guest's one network card. Addresses are as in packets: 4 bytes
// of IPv4, 16 of IPv6, 6 of Ethernet.
type Network struct {
	Link       string      // its name, such as "eth0"; empty means that there is none
	Addrs      []Prefix    // its own
	Gateways   []string    // of the default routes, one of a family at most
	Neighbours []Neighbour // what need not be asked for
}

// Prefix is an address with the length of its network's prefix.
type Prefix struct {
	Addr string
	Bits uint8
}

// Neighbour is an entry of the neighbour table that stays.
type Neighbour struct{ Addr, MAC string }

func (n *Network) encode(e *encoder) {
	e.str(n.Link)
	e.u32(uint32(len(n.Addrs)))
	for _, a := range n.Addrs {
		e.str(a.Addr)
		e.u8(a.Bits)
	}
	e.strs(n.Gateways)
	e.u32(uint32(len(n.Neighbours)))
	for _, b := range n.Neighbours {
		e.str(b.Addr)
		e.str(b.MAC)
	}
}

func (n *Network) decode(d *decoder) {
	n.Link = d.str()
	if c := d.count(5); c > 0 {
		n.Addrs = make([]Prefix, c)
		for i := range n.Addrs {
			n.Addrs[i] = Prefix{d.str(), d.u8()}
		}
	}
	n.Gateways = d.strs()
	if c := d.count(8); c > 0 {
		n.Neighbours = make([]Neighbour, c)
		for i := range n.Neighbours {
			n.Neighbours[i] = Neighbour{d.str(), d.str()}
		}
	}
}

// LogLevel selects which [Log] messages the agent sends.
type LogLevel uint8

const (
	LogOff   LogLevel = 0
	LogError LogLevel = 1
	LogInfo  LogLevel = 2
	LogDebug LogLevel = 3
)

// Setup makes a booted guest into a box. It is the first request of the first
// control connection and works once.
type Setup struct {
	Version     uint32        // [Version] of the host
	Root        Root          //
	Hostname    string        // empty means "box"
	Hosts       []Host        // added to the lines for localhost and Hostname
	User        string        // "name|uid[:group|gid]" that Ready tells the ids of
	Network     Network       //
	ResolvConf  string        // content of /etc/resolv.conf; empty leaves the image's
	Env         []string      // "K=V" for every execution, before its own
	Time        int64         // host's clock in ns since 1970; 0 leaves the guest's alone
	Shm         uint64        // bytes of /dev/shm; 0 means 64 MiB
	Orphan      time.Duration // how long a box lives without any control connection; 0 means 10 s, negative for ever
	Log         LogLevel      //
	NoCgroup    bool          // leave cgroups alone; executions are then only process groups
	MaxExecs    uint32        // executions at one time; 0 means 4096
	ExitLinger  time.Duration // how long output is awaited from descendants after an execution's leader ended; 0 means 250 ms
	StreamGrace time.Duration // how long a stream connection may be late; 0 means 10 s
}

func (*Setup) Type() Type { return TypeSetup }
func (m *Setup) encode(e *encoder) {
	e.u32(m.Version)
	e.u8(uint8(m.Root.Kind))
	e.str(m.Root.Lower)
	e.str(m.Root.Type)
	e.str(m.Root.Upper)
	e.u64(m.Root.Size)
	e.str(m.Hostname)
	e.u32(uint32(len(m.Hosts)))
	for _, h := range m.Hosts {
		e.str(h.Addr)
		e.strs(h.Names)
	}
	e.str(m.User)
	m.Network.encode(e)
	e.str(m.ResolvConf)
	e.strs(m.Env)
	e.i64(m.Time)
	e.u64(m.Shm)
	e.i64(int64(m.Orphan))
	e.u8(uint8(m.Log))
	e.bool(m.NoCgroup)
	e.u32(m.MaxExecs)
	e.i64(int64(m.ExitLinger))
	e.i64(int64(m.StreamGrace))
}
func (m *Setup) decode(d *decoder) {
	m.Version = d.u32()
	m.Root.Kind = RootKind(d.u8())
	m.Root.Lower, m.Root.Type, m.Root.Upper, m.Root.Size = d.str(), d.str(), d.str(), d.u64()
	m.Hostname = d.str()
	if n := d.count(8); n > 0 {
		m.Hosts = make([]Host, n)
		for i := range m.Hosts {
			m.Hosts[i] = Host{Addr: d.str(), Names: d.strs()}
		}
	}
	m.User = d.str()
	m.Network.decode(d)
	m.ResolvConf, m.Env = d.str(), d.strs()
	m.Time, m.Shm, m.Orphan = d.i64(), d.u64(), time.Duration(d.i64())
	m.Log, m.NoCgroup, m.MaxExecs = LogLevel(d.u8()), d.bool(), d.u32()
	m.ExitLinger, m.StreamGrace = time.Duration(d.i64()), time.Duration(d.i64())
}

// Step is one thing the agent did on the way to Ready.
type Step struct {
	Name string
	Took time.Duration
}

// Ready answers Setup: the root is in place and executions are served.
type Ready struct {
	Steps []Step
	At    time.Duration // CLOCK_BOOTTIME
	Disk  uint64        // bytes of the writable file system, 0 without one
	UID   uint32        // of Setup.User, as the image has it; 0 where the image does not know
	GID   uint32
}

func (*Ready) Type() Type { return TypeReady }
func (m *Ready) encode(e *encoder) {
	e.u32(uint32(len(m.Steps)))
	for _, s := range m.Steps {
		e.str(s.Name)
		e.i64(int64(s.Took))
	}
	e.i64(int64(m.At))
	e.u64(m.Disk)
	e.u32(m.UID)
	e.u32(m.GID)
}
func (m *Ready) decode(d *decoder) {
	if n := d.count(12); n > 0 {
		m.Steps = make([]Step, n)
		for i := range m.Steps {
			m.Steps[i] = Step{Name: d.str(), Took: time.Duration(d.i64())}
		}
	}
	m.At, m.Disk = time.Duration(d.i64()), d.u64()
	m.UID, m.GID = d.u32(), d.u32()
}

// Ping asks for a sign of life.
type Ping struct{}

func (*Ping) Type() Type      { return TypePing }
func (*Ping) encode(*encoder) {}
func (*Ping) decode(*decoder) {}

// OK answers requests that have nothing to tell.
type OK struct{}

func (*OK) Type() Type      { return TypeOK }
func (*OK) encode(*encoder) {}
func (*OK) decode(*decoder) {}

// Shutdown ends the box: SIGTERM to every process, SIGKILL to those left after
// Grace, disks written and read-only, OK, reset. Zero Grace kills at once.
type Shutdown struct{ Grace time.Duration }

func (*Shutdown) Type() Type          { return TypeShutdown }
func (m *Shutdown) encode(e *encoder) { e.i64(int64(m.Grace)) }
func (m *Shutdown) decode(d *decoder) { m.Grace = time.Duration(d.i64()) }

// PowerOff says that the guest is ending itself, and why.
type PowerOff struct{ Reason string }

func (*PowerOff) Type() Type          { return TypePowerOff }
func (m *PowerOff) encode(e *encoder) { e.str(m.Reason) }
func (m *PowerOff) decode(d *decoder) { m.Reason = d.str() }

// Log is a line for the box's log.
type Log struct {
	Level LogLevel
	Text  string
}

func (*Log) Type() Type          { return TypeLog }
func (m *Log) encode(e *encoder) { e.u8(uint8(m.Level)); e.str(m.Text) }
func (m *Log) decode(d *decoder) { m.Level, m.Text = LogLevel(d.u8()), d.str() }
