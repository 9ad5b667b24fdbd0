package agent

import (
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// finish runs when the leader has been reaped: it sees the output off, collects
// what the kernel knows, and tells the host.
func (e *execution) finish(end ended) {
	st := agentapi.ExitStatus{Wall: BootTime() - e.began}
	st.Code = int32(end.status.ExitStatus())
	if end.status.Signaled() {
		st.Code, st.Signal = -1, uint32(end.status.Signal())
	}
	st.User = time.Duration(end.usage.Utime.Nano())
	st.System = time.Duration(end.usage.Stime.Nano())
	st.MaxRSS = uint64(end.usage.Maxrss) << 10
	e.endTimeout()
	if e.input != nil && !e.input.terminal {
		e.input.link.stop()
	}
	st.Held = e.drain()
	st.TimedOut = e.timedOut.Load()
	st.Peak, st.OOMKilled = e.tree.usage()
	<-e.announced
	e.leave()
	e.owner.send(0, &agentapi.Exited{ID: e.spec.ID, Status: st})
	e.s.bury(e.tree)
}

// endTimeout stops the clock, or, when time has run out already, sees to it that
// the leader's descendants get no more than the same grace.
func (e *execution) endTimeout() {
	for _, t := range e.timers {
		t.Stop()
	}
	if !e.timedOut.Load() {
		return
	}
	e.awaitEmpty(e.grace())
	e.tree.kill(e.pid)
	e.awaitEmpty(killPatience)
}

func (e *execution) awaitEmpty(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end) && !e.tree.empty(e.pid); {
		time.Sleep(5 * time.Millisecond)
	}
}

func (e *execution) grace() time.Duration {
	switch {
	case e.spec.Grace == 0:
		return defaultGrace
	case e.spec.Grace < 0:
		return 0
	}
	return e.spec.Grace
}

// timeout ends the tree because ExecSpec.Timeout has passed.
func (e *execution) timeout() {
	defer e.s.guard("timeout")
	e.timedOut.Store(true)
	e.tree.signal(e.pid, unix.SIGTERM)
	e.tree.signal(e.pid, unix.SIGCONT) // what is stopped cannot act on SIGTERM
	time.AfterFunc(e.grace(), e.killTree)
}

// drain waits until the streams have carried everything. Descendants that hold
// an output open get a little time; then what has been written until that moment
// is delivered, and what they write later is dropped.
func (e *execution) drain() (held bool) {
	if len(e.outputs) == 0 {
		return false
	}
	e.s.mu.Lock()
	linger := e.s.setup.ExitLinger
	e.s.mu.Unlock()
	late := time.AfterFunc(linger, func() {
		// Once each: after its end an output is read on, so that descendants live.
		for _, o := range e.outputs {
			o.cut()
		}
	})
	defer late.Stop()
	for _, o := range e.outputs {
		<-o.done
		held = held || o.held
	}
	return held
}

// killTree ends every process of the execution, or keeps it from beginning.
func (e *execution) killTree() {
	e.killOnce.Do(func() { close(e.killed) })
	select {
	case <-e.running:
		e.tree.kill(e.pid)
	default: // start looks at killed when it has a process
	}
}

// Removing a cgroup takes locks for which the next fork would wait, so it is put
// off until things are calm, or until there are many.
const (
	buryAfter = time.Second
	maxGraves = 256
)

// bury has the cgroup of an ended execution removed.
func (s *Server) bury(t tree) {
	if t.dir == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.graves = append(s.graves, t)
	switch {
	case s.burial == nil:
		s.burial = time.AfterFunc(buryAfter, s.clearGraves)
	case len(s.graves)%maxGraves == 0:
		s.burial.Reset(0)
	default:
		s.burial.Reset(buryAfter)
	}
}

// clearGraves removes what can be removed. Daemons that executions left behind
// keep theirs until the next time.
func (s *Server) clearGraves() {
	defer s.guard("removing cgroups")
	s.mu.Lock()
	list := s.graves
	s.graves = nil
	s.mu.Unlock()
	kept := list[:0]
	for _, t := range list {
		if !t.remove() {
			kept = append(kept, t)
		}
	}
	s.mu.Lock()
	s.graves = append(s.graves, kept...)
	s.mu.Unlock()
}

// find returns a live execution.
func (s *Server) find(op string, id uint64) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.execs[id]; e != nil {
		return e, nil
	}
	return nil, fail(agentapi.CodeNoProcess, op, "no such execution, or it has ended", nil)
}

func (s *Server) signal(m *agentapi.Signal) (agentapi.Message, error) {
	e, err := s.find("signal", m.ID)
	if err != nil {
		return nil, err
	}
	if m.Signal > 64 {
		return nil, fail(agentapi.CodeInvalid, "signal", "signal "+itoa(int(m.Signal)), nil)
	}
	select {
	case <-e.running:
	default:
		return nil, fail(agentapi.CodeState, "signal", "the execution has not begun", nil)
	}
	alive, err := s.reaper.signalGroup(e.pid, unix.Signal(m.Signal))
	switch {
	case !alive:
		return nil, fail(agentapi.CodeExited, "signal", "the execution has ended", nil)
	case err != nil:
		return nil, fail(agentapi.CodeSystem, "signal", "kill", err)
	}
	return &agentapi.OK{}, nil
}

func (s *Server) kill(m *agentapi.Kill) (agentapi.Message, error) {
	e, err := s.find("kill", m.ID)
	if err != nil {
		return nil, err
	}
	e.killTree()
	return &agentapi.OK{}, nil
}

func (s *Server) resize(m *agentapi.Resize) (agentapi.Message, error) {
	e, err := s.find("resize", m.ID)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.running:
	default:
		return nil, fail(agentapi.CodeState, "resize", "the execution has not begun", nil)
	}
	if e.master == nil {
		return nil, fail(agentapi.CodeNoTTY, "resize", "the execution has no terminal", nil)
	}
	raw, err := e.master.SyscallConn()
	if err == nil {
		var e1 error
		err = raw.Control(func(fd uintptr) {
			e1 = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: m.Rows, Col: m.Cols})
		})
		if err == nil {
			err = e1
		}
	}
	if err != nil {
		return nil, fail(agentapi.CodeExited, "resize", "the terminal is closed", err)
	}
	return &agentapi.OK{}, nil
}
