package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/boxlog"
)

// Main is the box's own command: the VMM process starts it, logs what it writes,
// passes that on to attached clients, and ends the box when it ends.
type Main struct {
	Spec       agentapi.ExecSpec
	Hold       bool // do not start it before a client asks for that
	StopSignal int  // what asks it to end; Linux's number
}

// command is a main command that runs; *guest.Process is one.
type command interface {
	Wait(context.Context) (agentapi.ExitStatus, error)
	Signal(ctx context.Context, sig int) error
	Kill(context.Context) error
	Resize(ctx context.Context, rows, cols uint16) error
	Close() error // its streams
}

// running is a command with its streams; those it does not have are nil.
type running struct {
	command
	stdin          io.WriteCloser
	stdout, stderr io.ReadCloser
}

// supervisor runs a main command.
type supervisor struct {
	spec   agentapi.ExecSpec
	log    *boxlog.Writer
	hub    hub
	begun  chan struct{} // closed by begin
	begin  func()
	closed chan struct{} // closed by close: the VM is gone
	close  func()

	// started is closed when the command runs or was refused, ended when all is
	// over, which includes that all output was passed on.
	started, ended chan struct{}
	stopping       chan struct{} // closed when somebody wants it to end
	hurry          func()

	mu     sync.Mutex // guards what follows
	size   [2]uint16  // rows and columns asked for before the start
	cmd    *running   // set when started, unless refused
	result *MainResult

	stdinMu  sync.Mutex // held while a client's input is passed on
	stdinEnd bool       // guarded by stdinMu
}

func newSupervisor(m *Main, log *boxlog.Writer) *supervisor {
	s := &supervisor{
		spec: m.Spec, log: log, begun: make(chan struct{}), closed: make(chan struct{}),
		started: make(chan struct{}), ended: make(chan struct{}), stopping: make(chan struct{}),
	}
	s.begin = sync.OnceFunc(func() { close(s.begun) })
	// Clients and their input have nobody to wait for then.
	s.close = sync.OnceFunc(func() {
		close(s.closed)
		s.hub.close()
	})
	s.hurry = sync.OnceFunc(func() { close(s.stopping) })
	if !m.Hold {
		s.begin()
	}
	return s
}

// run is the command's whole life. It returns when the command has ended, or
// with an error when it cannot be watched any more.
func (s *supervisor) run(ctx context.Context, launch func(context.Context, agentapi.ExecSpec) (*running, error), started func()) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	spec := s.spec
	s.mu.Lock()
	if s.size != [2]uint16{} {
		spec.Rows, spec.Cols = s.size[0], s.size[1]
	}
	s.mu.Unlock()
	cmd, err := launch(ctx, spec)
	if err != nil {
		var refused *agentapi.Error
		if !errors.As(err, &refused) {
			return err
		}
		r := s.note(&MainResult{Refused: refused})
		close(s.started)
		s.hub.finish(r)
		close(s.ended)
		return nil
	}
	s.mu.Lock()
	s.cmd = cmd
	s.mu.Unlock()
	close(s.started)
	started()
	defer cmd.Close()
	over := make(chan struct{})
	defer close(over)
	go s.hurryUp(over)
	var pumps sync.WaitGroup
	pumps.Go(func() { s.pump(recStdout, boxlog.Stdout, cmd.stdout) })
	pumps.Go(func() { s.pump(recStderr, boxlog.Stderr, cmd.stderr) })
	status, err := cmd.Wait(ctx)
	if err != nil {
		return err
	}
	pumps.Wait()
	s.hub.finish(s.note(&MainResult{Status: status}))
	close(s.ended)
	return nil
}

// lagLimit is how long a client may keep the output from being passed on when the
// box is to stop.
const lagLimit = time.Second

// hurryUp drops clients that take nothing, from when somebody is in a hurry until
// all is over. The command's end is only told once its output has been taken.
func (s *supervisor) hurryUp(over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-s.stopping:
	}
	tick := time.NewTicker(lagLimit)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			s.hub.hurry()
		}
	}
}

// note remembers how it ended, and makes the record that says so.
func (s *supervisor) note(r *MainResult) []byte {
	if e := r.Refused; e != nil { // the guest's words
		const most = exitLimit / 16 // JSON makes up to six bytes of one
		r.Refused = &agentapi.Error{Code: e.Code, Errno: e.Errno, Op: e.Op[:min(len(e.Op), most)], Msg: e.Msg[:min(len(e.Msg), most)]}
	}
	s.mu.Lock()
	s.result = r
	s.mu.Unlock()
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte("{}") // cannot be with these fields; that it ended matters more
	}
	return record(recExit, b)
}

// pump moves one stream to log and clients until it ends.
func (s *supervisor) pump(kind byte, stream boxlog.Stream, from io.ReadCloser) {
	if from == nil {
		return
	}
	defer from.Close()
	buf := make([]byte, recordHead+recordLimit/2)
	for {
		n, err := from.Read(buf[recordHead:])
		if n > 0 {
			s.log.Write(time.Now(), stream, buf[recordHead:recordHead+n])
			putHead(buf, kind, n)
			s.hub.output(buf[:recordHead+n])
		}
		if err != nil {
			break
		}
	}
	s.hub.output(record(kind, nil))
}

// current returns the command, or why there is none to talk to.
func (s *supervisor) current(op string) (*running, *agentapi.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.result != nil:
		return nil, &agentapi.Error{Code: agentapi.CodeExited, Op: op, Msg: "the command has ended"}
	case s.cmd == nil:
		return nil, &agentapi.Error{Code: agentapi.CodeState, Op: op, Msg: "the command has not been started yet"}
	}
	return s.cmd, nil
}

// outcome is how the command ended, nil while that is not known.
func (s *supervisor) outcome() *MainResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.result
}

// takesInput reports whether clients may write to the command, which has a
// terminal's input in any case.
func (s *supervisor) takesInput() bool { return s.spec.Streams&agentapi.WantStdin != 0 }

// stdin passes a client's input on; without any it is the end. It blocks while
// the command does not read.
func (s *supervisor) stdin(p []byte) {
	select {
	case <-s.started:
	case <-s.closed:
		return
	}
	s.mu.Lock()
	cmd := s.cmd
	s.mu.Unlock()
	if cmd == nil || cmd.stdin == nil || !s.takesInput() {
		return
	}
	s.stdinMu.Lock()
	defer s.stdinMu.Unlock()
	if s.stdinEnd {
		return
	}
	if len(p) > 0 {
		if _, err := cmd.stdin.Write(p); err == nil {
			return
		}
	}
	s.stdinEnd = true
	cmd.stdin.Close()
	s.hub.notice(record(recStdinEnd, nil))
}

// closeOutput ends a stream that nobody reads: the command learns it by SIGPIPE.
func (s *supervisor) closeOutput(kind byte) {
	s.mu.Lock()
	cmd := s.cmd
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if r := cmd.stdout; kind == recCloseStdout && r != nil {
		r.Close()
	}
	if r := cmd.stderr; kind == recCloseStderr && r != nil {
		r.Close()
	}
}

// stop asks the command to end, waits until patience is over, and then kills it
// and all its descendants. It returns when the command has ended, or will not.
func (s *supervisor) stop(ctx context.Context, signal int, over <-chan struct{}) {
	s.hurry()
	cmd, gone := s.current("stop")
	if gone != nil {
		return
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a guest that hangs gives no answer
		select {
		case <-over:
			cancel()
		case <-asking.Done():
		}
	}()
	// What comes back is of no use: one that has ended ends the wait below.
	_ = cmd.Signal(asking, signal)
	if signal != sigKill {
		_ = cmd.Signal(asking, sigCont) // what is stopped cannot act on it
	}
	select {
	case <-s.ended:
		return
	case <-ctx.Done():
		return
	case <-over:
	}
	limited, cancelKill := context.WithTimeout(ctx, killLimit)
	defer cancelKill()
	_ = cmd.Kill(limited)
	select {
	case <-s.ended:
	case <-limited.Done():
	}
}

// Signals by Linux's numbers, which are the guest's on any host.
const (
	sigKill = 9
	sigTerm = 15
	sigCont = 18
)

// killLimit is how long the report of a killed command may take, a lagging
// client included.
const killLimit = 2*lagLimit + 5*time.Second
