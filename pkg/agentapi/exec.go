package agentapi

import "time"

// StreamSet says which streams of an execution the host connects. The others are
// /dev/null.
type StreamSet uint8

const (
	WantStdin  StreamSet = 1 << Stdin
	WantStdout StreamSet = 1 << Stdout
	WantStderr StreamSet = 1 << Stderr
	// WantAll is what an interactive command without a terminal has.
	WantAll = WantStdin | WantStdout | WantStderr
)

// ExecSpec starts a program in the box. With TTY the execution has one
// connection, [Terminal], whatever Streams says.
type ExecSpec struct {
	ID      uint64        // chosen by the host, unique among the box's live executions, not 0
	Args    []string      // program and arguments; a program without a slash is looked up in PATH
	Env     []string      // "K=V", after Setup.Env; the last of equal keys counts
	Dir     string        // absolute; empty means "/"; created when missing
	User    string        // "name|uid[:group|gid]" by the image's files; empty means 0:0
	TTY     bool          // own terminal as controlling terminal, of Rows by Cols
	Rows    uint16        //
	Cols    uint16        //
	Streams StreamSet     //
	Timeout time.Duration // after this SIGTERM, after Grace more SIGKILL, to the whole tree; 0 means none
	Grace   time.Duration // between the two; 0 means 2 s, negative means none
	Detach  bool          // lives on when the control connection that started it is lost
}

func (*ExecSpec) Type() Type { return TypeExec }
func (m *ExecSpec) encode(e *encoder) {
	e.u64(m.ID)
	e.strs(m.Args)
	e.strs(m.Env)
	e.str(m.Dir)
	e.str(m.User)
	e.bool(m.TTY)
	e.u16(m.Rows)
	e.u16(m.Cols)
	e.u8(uint8(m.Streams))
	e.i64(int64(m.Timeout))
	e.i64(int64(m.Grace))
	e.bool(m.Detach)
}
func (m *ExecSpec) decode(d *decoder) {
	m.ID = d.u64()
	m.Args, m.Env = d.strs(), d.strs()
	m.Dir, m.User = d.str(), d.str()
	m.TTY, m.Rows, m.Cols = d.bool(), d.u16(), d.u16()
	m.Streams = StreamSet(d.u8())
	m.Timeout, m.Grace = time.Duration(d.i64()), time.Duration(d.i64())
	m.Detach = d.bool()
}

// Wants returns the streams that the host must connect.
func (m *ExecSpec) Wants() []Stream {
	if m.TTY {
		return []Stream{Terminal}
	}
	var list []Stream
	for s := Stdin; s <= Stderr; s++ {
		if m.Streams&(1<<s) != 0 {
			list = append(list, s)
		}
	}
	return list
}

// Started answers an ExecSpec: the program runs.
type Started struct{ PID uint32 }

func (*Started) Type() Type          { return TypeStarted }
func (m *Started) encode(e *encoder) { e.u32(m.PID) }
func (m *Started) decode(d *decoder) { m.PID = d.u32() }

// ExitStatus tells how an execution ended.
type ExitStatus struct {
	Code      int32         // exit code, or -1 when Signal ended it
	Signal    uint32        // 0 when it exited by itself
	TimedOut  bool          // ExecSpec.Timeout passed and the agent ended it
	OOMKilled bool          // the kernel killed a process of the execution for memory
	Held      bool          // descendants kept the output open; what they write later is dropped
	User      time.Duration // CPU time of the leader and the descendants it waited for
	System    time.Duration //
	MaxRSS    uint64        // bytes, of the largest process
	Peak      uint64        // bytes, most memory the whole tree had; 0 when not known
	Wall      time.Duration // from start to the leader's end
}

// Success reports exit code 0.
func (s ExitStatus) Success() bool { return s.Code == 0 && s.Signal == 0 }

// ShellCode is the status as shells give it: the code, or 128+signal.
func (s ExitStatus) ShellCode() int {
	if s.Signal&0x7f != 0 {
		return 128 + int(s.Signal&0x7f)
	}
	return int(s.Code)
}

// Exited is sent once on the control connection that started the execution,
// after its streams have carried everything.
type Exited struct {
	ID     uint64
	Status ExitStatus
}

func (*Exited) Type() Type { return TypeExited }
func (m *Exited) encode(e *encoder) {
	s := &m.Status
	e.u64(m.ID)
	e.u32(uint32(s.Code))
	e.u32(s.Signal)
	e.bool(s.TimedOut)
	e.bool(s.OOMKilled)
	e.bool(s.Held)
	e.i64(int64(s.User))
	e.i64(int64(s.System))
	e.u64(s.MaxRSS)
	e.u64(s.Peak)
	e.i64(int64(s.Wall))
}
func (m *Exited) decode(d *decoder) {
	s := &m.Status
	m.ID = d.u64()
	s.Code, s.Signal = int32(d.u32()), d.u32()
	s.TimedOut, s.OOMKilled, s.Held = d.bool(), d.bool(), d.bool()
	s.User, s.System = time.Duration(d.i64()), time.Duration(d.i64())
	s.MaxRSS, s.Peak, s.Wall = d.u64(), d.u64(), time.Duration(d.i64())
}

// Signal sends a signal to the process group of an execution.
type Signal struct {
	ID     uint64
	Signal uint32
}

func (*Signal) Type() Type          { return TypeSignal }
func (m *Signal) encode(e *encoder) { e.u64(m.ID); e.u32(m.Signal) }
func (m *Signal) decode(d *decoder) { m.ID, m.Signal = d.u64(), d.u32() }

// Kill ends every process of an execution's tree.
type Kill struct{ ID uint64 }

func (*Kill) Type() Type          { return TypeKill }
func (m *Kill) encode(e *encoder) { e.u64(m.ID) }
func (m *Kill) decode(d *decoder) { m.ID = d.u64() }

// Resize sets the size of an execution's terminal.
type Resize struct {
	ID         uint64
	Rows, Cols uint16
}

func (*Resize) Type() Type          { return TypeResize }
func (m *Resize) encode(e *encoder) { e.u64(m.ID); e.u16(m.Rows); e.u16(m.Cols) }
func (m *Resize) decode(d *decoder) { m.ID, m.Rows, m.Cols = d.u64(), d.u16(), d.u16() }
