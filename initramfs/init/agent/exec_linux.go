package agent

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// execution is one program that the host started, from its request to its exit.
type execution struct {
	s     *Server
	owner *control
	spec  *agentapi.ExecSpec

	running   chan struct{} // closed when there is a process
	announced chan struct{} // closed when the host has been told of it
	killed    chan struct{} // closed when the tree is to end, also before it began
	killOnce  sync.Once
	timedOut  atomic.Bool

	// Set by start, before the leader can end.
	tree    tree
	pid     int
	began   time.Duration // [BootTime]
	master  *os.File      // of the terminal
	outputs []*output
	input   *input
	timers  []*time.Timer
}

// enter registers an execution.
func (s *Server) enter(spec *agentapi.ExecSpec, owner *control) (*execution, *agentapi.Error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	e := &execution{s: s, owner: owner, spec: spec, running: make(chan struct{}), announced: make(chan struct{}), killed: make(chan struct{})}
	e.tree.fd = -1
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != stateReady:
		return nil, fail(agentapi.CodeState, "exec", "the box is not ready, or shutting down", nil)
	case s.execs[spec.ID] != nil:
		return nil, fail(agentapi.CodeExists, "exec", "the execution's id is taken", nil)
	case len(s.execs) >= int(s.setup.MaxExecs):
		return nil, fail(agentapi.CodeLimit, "exec", itoa(len(s.execs))+" executions are running, the limit", nil)
	}
	s.execs[spec.ID] = e
	return e, nil
}

func checkSpec(spec *agentapi.ExecSpec) *agentapi.Error {
	bad := func(what string) *agentapi.Error { return fail(agentapi.CodeInvalid, "exec", what, nil) }
	switch {
	case spec.ID == 0:
		return bad("id 0")
	case len(spec.Args) == 0 || spec.Args[0] == "":
		return bad("empty command")
	case spec.Streams&^agentapi.WantAll != 0:
		return bad("unknown stream")
	}
	for _, list := range [][]string{spec.Args, spec.Env, {spec.Dir, spec.User}} {
		for _, v := range list {
			for i := range len(v) {
				if v[i] == 0 {
					return bad("zero byte in a string")
				}
			}
		}
	}
	return nil
}

// leave forgets an execution that is over or never began.
func (e *execution) leave() {
	e.s.mu.Lock()
	delete(e.s.execs, e.spec.ID)
	e.s.mu.Unlock()
	for _, st := range e.spec.Wants() {
		e.s.streams.release(agentapi.StreamHeader{Exec: e.spec.ID, Stream: st})
	}
}

func (e *execution) claim(st agentapi.Stream) <-chan Conn {
	return e.s.streams.claim(agentapi.StreamHeader{Exec: e.spec.ID, Stream: st})
}

// start makes the process. Until it returns nil nothing of the execution is
// left behind.
func (e *execution) start() (err error) {
	s := e.s
	s.mu.Lock()
	base, env := s.setup.Env, e.spec.Env
	grace := s.setup.StreamGrace
	cgroup := s.cfg.Cgroup
	if s.setup.NoCgroup {
		cgroup = ""
	}
	s.mu.Unlock()

	p, err := prepare(e.spec, base, env)
	if err != nil {
		return err
	}
	files, err := e.openStdio(p.user.UID)
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
		if err != nil {
			e.closeStdio()
		}
	}()
	if err != nil {
		return err
	}
	if e.tree, err = newTree(cgroup, e.spec.ID); err != nil {
		return err
	}
	defer func() {
		e.tree.forked()
		if err != nil {
			e.tree.remove()
		}
	}()
	attr := &syscall.ProcAttr{Dir: p.dir, Env: p.env, Files: make([]uintptr, 3), Sys: &syscall.SysProcAttr{
		Setsid: true, Setctty: e.spec.TTY,
		Credential:  &syscall.Credential{Uid: p.user.UID, Gid: p.user.GID, Groups: p.user.Groups, NoSetGroups: s.cfg.NoSetGroups},
		UseCgroupFD: e.tree.fd >= 0, CgroupFD: e.tree.fd,
	}}
	for i := range attr.Files {
		attr.Files[i] = files[i].Fd()
	}
	select {
	case <-e.killed:
		return fail(agentapi.CodeExited, "exec", "killed before it began", nil)
	default:
	}
	e.began = BootTime()
	e.pid, err = s.reaper.spawn(func() (int, error) { return syscall.ForkExec(p.path, e.spec.Args, attr) }, func(end ended) {
		go func() {
			defer s.guard("end of execution")
			<-e.running
			e.finish(end)
		}()
	})
	if err != nil {
		return p.explain(err)
	}
	for _, o := range e.outputs {
		go o.run(grace)
	}
	if e.input != nil {
		go e.input.run(grace)
	}
	if e.spec.Timeout > 0 {
		e.timers = append(e.timers, time.AfterFunc(e.spec.Timeout, e.timeout))
	}
	close(e.running)
	select {
	case <-e.killed: // before running was closed, so nobody has killed it
		e.tree.kill(e.pid)
	default:
	}
	return nil
}

// openStdio makes the ends of pipes or of a terminal that the child gets, three
// files of which some may be the same, and the pumps for ours.
func (e *execution) openStdio(uid uint32) (child [3]*os.File, err error) {
	if e.spec.TTY {
		master, slave, err := openTerminal(e.spec.Rows, e.spec.Cols, uid)
		if err != nil {
			return child, fail(agentapi.CodeSystem, "exec", "opening a terminal", err)
		}
		l := newLink(e.claim(agentapi.Terminal))
		e.master = master
		e.outputs = []*output{{s: e.s, src: master, link: l, detach: e.spec.Detach, done: make(chan struct{})}}
		e.input = &input{s: e.s, dst: master, link: l, terminal: true}
		return [3]*os.File{slave, slave, slave}, nil
	}
	for st := agentapi.Stdin; st <= agentapi.Stderr; st++ {
		if e.spec.Streams&(1<<st) == 0 {
			fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return child, os.NewSyscallError("open /dev/null", err)
			}
			child[st] = os.NewFile(uintptr(fd), "null")
			continue
		}
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return child, os.NewSyscallError("pipe2", err)
		}
		theirs, ours := 1, 0
		if st == agentapi.Stdin {
			theirs, ours = 0, 1
		}
		// Only our end does not block: O_NONBLOCK would be a surprise to programs.
		if err := unix.SetNonblock(fds[ours], true); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return child, os.NewSyscallError("fcntl", err)
		}
		child[st] = os.NewFile(uintptr(fds[theirs]), "pipe")
		mine := os.NewFile(uintptr(fds[ours]), "pipe")
		l := newLink(e.claim(st))
		if st == agentapi.Stdin {
			e.input = &input{s: e.s, dst: mine, link: l}
		} else {
			e.outputs = append(e.outputs, &output{s: e.s, src: mine, link: l, detach: e.spec.Detach, done: make(chan struct{})})
		}
	}
	return child, nil
}

// closeStdio closes our ends when the process did not come to be.
func (e *execution) closeStdio() {
	for _, o := range e.outputs {
		o.src.Close()
	}
	if e.input != nil {
		e.input.dst.Close()
	}
}

// openTerminal makes a pseudo-terminal whose slave belongs to uid, as the
// user's programs expect who open it by name.
func openTerminal(rows, cols uint16, uid uint32) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("open /dev/ptmx", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, os.NewSyscallError("TIOCSPTLCK", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, os.NewSyscallError("TIOCGPTPEER", errno)
	}
	slave = os.NewFile(peer, "terminal")
	if rows != 0 || cols != 0 {
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			slave.Close()
			return nil, nil, os.NewSyscallError("TIOCSWINSZ", err)
		}
	}
	if uid != 0 {
		unix.Fchown(int(peer), int(uid), -1) // best effort: fails without privileges
	}
	return os.NewFile(uintptr(fd), "terminal"), slave, nil
}
