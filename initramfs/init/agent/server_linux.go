package agent

import (
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// Conn is a connection to the host.
type Conn interface {
	io.ReadWriteCloser
	syscall.Conn
	CloseWrite() error
	ReadWithin(time.Duration)  // reads fail after that time; 0 takes the limit away
	WriteWithin(time.Duration) // as ReadWithin
}

// Listener accepts connections from the host.
type Listener interface {
	Accept() (Conn, error)
	Close() error
}

// Machine is what the server does to the guest as a whole. PID 1 has the real
// one; tests have a smaller one.
type Machine interface {
	// Setup makes the root and everything that executions expect. Its error is
	// an *agentapi.Error that names the step.
	Setup(*agentapi.Setup) (agentapi.Ready, error)
	// Mount puts file systems into the root. Its error is an *agentapi.Error that
	// names the one that did not work.
	Mount([]agentapi.MountPoint) error
	// Sync brings disks to rest and makes them read-only. No process is left.
	Sync()
	// Halt ends the guest. It returns in tests only.
	Halt()
	// Log writes a line to the console.
	Log(text string)
}

// Config is what a Server is made of.
type Config struct {
	Machine Machine
	Dial    func() (Conn, error)                // calls the host's control port
	Listen  func(port uint32) (Listener, error) //
	Cgroup  string                              // where cgroup2 is mounted after Setup, e.g. "/sys/fs/cgroup"; "" for none
	Agent   string                              // build, for Hello
	Init    time.Duration                       // CLOCK_BOOTTIME at the start of PID 1

	// NoSetGroups leaves supplementary groups alone: a user namespace made without
	// privileges does not let them be set (user_namespaces(7)).
	NoSetGroups bool
}

// Defaults of agentapi.Setup.
const (
	defaultOrphan      = 10 * time.Second
	defaultMaxExecs    = 4096
	defaultExitLinger  = 250 * time.Millisecond
	defaultStreamGrace = 10 * time.Second
	defaultGrace       = 2 * time.Second
)

// Server is the agent. Run it once.
type Server struct {
	cfg       Config
	reaper    *reaper
	streams   *streamTable
	listening chan struct{} // closed when the host can dial us
	halt      chan string   // reasons to power off that come from inside the guest
	ending    chan struct{} // closed when the box begins to end
	over      chan struct{}
	archiving sync.WaitGroup // grows only while the state is stateReady

	mu       sync.Mutex // guards what follows
	setup    agentapi.Setup
	state    state
	controls map[*control]struct{}
	execs    map[uint64]*execution
	graves   []tree      // cgroups of ended executions
	burial   *time.Timer // runs clearGraves
	archives int         // being made or unpacked
}

type state uint8

const (
	stateBooted state = iota // waiting for Setup
	stateSetup               // Setup is being carried out
	stateReady
	stateEnding
)

// New returns a Server.
func New(cfg Config) *Server {
	return &Server{
		cfg: cfg, reaper: newReaper(), streams: newStreamTable(), listening: make(chan struct{}), halt: make(chan string, 4), ending: make(chan struct{}), over: make(chan struct{}),
		setup:    agentapi.Setup{StreamGrace: defaultStreamGrace},
		controls: map[*control]struct{}{}, execs: map[uint64]*execution{},
	}
}

// Run calls the host, serves it, and returns when the guest has been halted,
// which outside of tests is never. It must run on the main goroutine of PID 1.
func (s *Server) Run() {
	conn, err := s.cfg.Dial()
	if err != nil {
		s.log("calling the host: " + err.Error())
		s.end("host-unreachable", 0, nil)
		return
	}
	s.addControl(conn)
	for _, l := range []struct {
		port  uint32
		serve func(Conn)
	}{{agentapi.PortStream, s.serveStream}, {agentapi.PortControl, s.addControl}} {
		listener, err := s.cfg.Listen(l.port)
		if err != nil {
			s.log("listening: " + err.Error())
			s.end("no-listener", 0, nil)
			return
		}
		defer listener.Close()
		go s.accept(listener, l.serve)
	}
	close(s.listening)
	s.main()
}

// main waits for reasons to end.
func (s *Server) main() {
	select {
	case reason := <-s.halt:
		s.end(reason, defaultOrphan, nil)
	case <-s.over:
	}
	<-s.over
}

func (s *Server) accept(l Listener, serve func(Conn)) {
	defer s.guard("accept")
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-s.over:
				return
			default:
			}
			if isTemporary(err) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			s.log("accept: " + err.Error())
			return
		}
		serve(conn)
	}
}

// isTemporary tells a shortage, which passes, from a broken listener.
func isTemporary(err error) bool {
	switch errnoOf(err) {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return true
	}
	return false
}

// serveStream reads the header off the main goroutine's way: a silent peer must
// not keep others from being accepted.
func (s *Server) serveStream(conn Conn) {
	go func() {
		defer s.guard("stream")
		s.mu.Lock()
		grace := s.setup.StreamGrace
		s.mu.Unlock()
		conn.ReadWithin(grace)
		var b [agentapi.StreamHeaderLen]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			conn.Close()
			return
		}
		h, err := agentapi.ParseStreamHeader(b)
		if err != nil {
			s.log(err.Error())
			conn.Close()
			return
		}
		conn.ReadWithin(0)
		s.streams.offer(h, conn, grace)
	}()
}

// hello describes the guest as it is now.
func (s *Server) hello() *agentapi.Hello {
	h := &agentapi.Hello{
		Version: agentapi.Version, Agent: s.cfg.Agent, CPUs: uint32(runtime.NumCPU()),
		Init: s.cfg.Init, Dialed: BootTime(),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		h.Memory = uint64(si.Totalram) * uint64(si.Unit)
	}
	s.mu.Lock()
	h.Ready = s.state == stateReady
	s.mu.Unlock()
	return h
}

// BootTime reads CLOCK_BOOTTIME, which starts with the kernel.
func BootTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// doSetup carries out the one Setup of this guest.
func (s *Server) doSetup(m *agentapi.Setup) (agentapi.Message, error) {
	if m.Version != agentapi.Version {
		return nil, &agentapi.Error{Code: agentapi.CodeVersion, Op: "setup", Msg: "the host speaks version " + itoa(int(m.Version)) + " of the agent's protocol, the guest version " + itoa(agentapi.Version)}
	}
	s.mu.Lock()
	if s.state != stateBooted {
		s.mu.Unlock()
		return nil, &agentapi.Error{Code: agentapi.CodeState, Op: "setup", Msg: "the box is set up already"}
	}
	s.state = stateSetup
	s.mu.Unlock()
	ready, err := s.cfg.Machine.Setup(m)
	if err == nil {
		ready.UID, ready.GID = ownerOf(m.User)
	}
	<-s.listening // Ready means that streams can be dialled
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.state == stateSetup {
			s.state = stateBooted
		}
		return nil, err
	}
	if s.state != stateSetup {
		return nil, &agentapi.Error{Code: agentapi.CodeState, Op: "setup", Msg: "the box is shutting down"}
	}
	orDefault(&m.Orphan, defaultOrphan)
	orDefault(&m.MaxExecs, defaultMaxExecs)
	orDefault(&m.ExitLinger, defaultExitLinger)
	orDefault(&m.StreamGrace, defaultStreamGrace)
	s.setup = *m
	s.reaper.start(s.signalled)
	s.state = stateReady
	ready.At = BootTime()
	return &ready, nil
}

// ownerOf returns the ids of a user of the image. One that it does not know is
// told when a command is to run as that user; here it is root.
func ownerOf(user string) (uid, gid uint32) {
	if user == "" {
		return 0, 0
	}
	u, err := resolveUser(user)
	if err != nil {
		return 0, 0
	}
	return u.UID, u.GID
}

// mount carries out a Mount.
func (s *Server) mount(m *agentapi.Mount) (agentapi.Message, error) {
	if err := s.needReady("mount"); err != nil {
		return nil, err
	}
	if err := s.cfg.Machine.Mount(m.Points); err != nil {
		return nil, err
	}
	return &agentapi.OK{}, nil
}

func orDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// signalled is told of signals that somebody in the guest sent to PID 1.
func (s *Server) signalled(reason string) {
	select {
	case s.halt <- reason:
	default: // it is ending anyway
	}
}

// log writes to the console and to every host that listens.
func (s *Server) log(text string) {
	s.cfg.Machine.Log(text)
	s.tell(agentapi.LogError, text)
}

func (s *Server) tell(level agentapi.LogLevel, text string) {
	s.mu.Lock()
	want := s.setup.Log >= level
	s.mu.Unlock()
	if want {
		s.broadcast(&agentapi.Log{Level: level, Text: text})
	}
}

func (s *Server) broadcast(m agentapi.Message) {
	s.mu.Lock()
	list := make([]*control, 0, len(s.controls))
	for c := range s.controls {
		list = append(list, c)
	}
	s.mu.Unlock()
	for _, c := range list {
		c.send(0, m)
	}
}

// guard keeps a fault in one goroutine from ending PID 1 and with it the box.
func (s *Server) guard(what string) {
	if r := recover(); r != nil {
		text := "panic in " + what
		switch v := r.(type) {
		case error:
			text += ": " + v.Error()
		case string:
			text += ": " + v
		}
		buf := make([]byte, 8192)
		os.Stderr.Write(buf[:runtime.Stack(buf, false)])
		s.log(text)
	}
}
