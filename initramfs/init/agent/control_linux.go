package agent

import (
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// sendTimeout is how long the host may leave a control connection unread.
const sendTimeout = 60 * time.Second

// control is a control connection.
type control struct {
	s    *Server
	conn Conn
	mu   sync.Mutex // held while a frame is written
	buf  []byte     // guarded by mu
	dead bool       // guarded by mu
	gone chan struct{}
}

// addControl says hello on a new control connection and serves it.
func (s *Server) addControl(conn Conn) {
	c := &control{s: s, conn: conn, gone: make(chan struct{})}
	s.mu.Lock()
	s.controls[c] = struct{}{}
	s.mu.Unlock()
	go c.serve()
}

// send writes one frame. On error the connection is closed, which its reader
// will notice.
func (c *control) send(id uint32, m agentapi.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	frame, err := agentapi.AppendFrame(c.buf[:0], id, m)
	if err != nil {
		e := err.(*agentapi.Error) // it has no other
		if frame, err = agentapi.AppendFrame(c.buf[:0], id, e); err != nil || id == 0 {
			return
		}
	}
	if cap(frame) <= 4096 {
		c.buf = frame
	}
	c.conn.WriteWithin(sendTimeout)
	if _, err := c.conn.Write(frame); err != nil {
		c.dead = true
		c.conn.Close()
	}
}

func (c *control) serve() {
	defer c.s.guard("control connection")
	defer c.lost()
	c.send(0, c.s.hello())
	r := agentapi.NewReader(c.conn)
	for {
		id, m, err := r.Read()
		if err != nil {
			if _, bad := err.(*agentapi.FrameError); bad {
				c.send(id, &agentapi.Error{Code: agentapi.CodeProtocol, Op: "request", Msg: err.Error()})
			}
			return
		}
		c.handle(id, m)
	}
}

// handle serves one request. What may take time runs on a goroutine of its own.
func (c *control) handle(id uint32, m agentapi.Message) {
	switch m := m.(type) {
	case *agentapi.Setup:
		c.answer(id, "setup", func() (agentapi.Message, error) { return c.s.doSetup(m) })
	case *agentapi.Mount:
		go c.answer(id, "mount", func() (agentapi.Message, error) { return c.s.mount(m) })
	case *agentapi.ExecSpec:
		// Entered here and not on the goroutine, so that requests that follow on
		// this connection find the execution.
		e, err := c.s.enter(m, c)
		if err != nil {
			c.send(id, err)
			return
		}
		go c.exec(id, e)
	case *agentapi.Signal:
		c.answer(id, "signal", func() (agentapi.Message, error) { return c.s.signal(m) })
	case *agentapi.Kill:
		go c.answer(id, "kill", func() (agentapi.Message, error) { return c.s.kill(m) })
	case *agentapi.Resize:
		c.answer(id, "resize", func() (agentapi.Message, error) { return c.s.resize(m) })
	case *agentapi.StatPath:
		go c.answer(id, "stat", func() (agentapi.Message, error) { return c.s.statPath(m) })
	case *agentapi.ArchiveGet:
		go c.archiveGet(id, m)
	case *agentapi.ArchivePut:
		go c.archivePut(id, m)
	case *agentapi.ListProcesses:
		go c.answer(id, "processes", c.s.processes)
	case *agentapi.GetStats:
		go c.answer(id, "stats", c.s.stats)
	case *agentapi.Ping:
		c.send(id, &agentapi.OK{})
	case *agentapi.Shutdown:
		go func() {
			defer c.s.guard("shutdown")
			c.s.end("request", m.Grace, func() {
				c.send(id, &agentapi.OK{})
				// The host closes when it has read the answer: with the guest's
				// reset the connection's bytes would be lost.
				late, _ := after(time.Second)
				select {
				case <-c.gone:
				case <-late:
				}
			})
		}()
	default:
		c.send(id, &agentapi.Error{Code: agentapi.CodeProtocol, Op: m.Type().String(), Msg: "not a request"})
	}
}

// answer sends what f returns.
func (c *control) answer(id uint32, op string, f func() (agentapi.Message, error)) {
	defer c.s.guard(op)
	m, err := f()
	if err != nil {
		m = asError(op, err)
	}
	c.send(id, m)
}

// exec starts an execution, answers, and has its end announced.
func (c *control) exec(id uint32, e *execution) {
	defer c.s.guard("exec")
	if err := e.start(); err != nil {
		e.leave()
		c.send(id, asError("exec", err))
		return
	}
	c.send(id, &agentapi.Started{PID: uint32(e.pid)})
	close(e.announced)
}

// lost ends what depends on the connection.
func (c *control) lost() {
	c.mu.Lock()
	c.dead = true
	c.mu.Unlock()
	c.conn.Close()
	close(c.gone)
	s := c.s
	s.mu.Lock()
	delete(s.controls, c)
	last := len(s.controls) == 0 && s.state != stateEnding
	orphan := s.setup.Orphan
	var mine []*execution
	for _, e := range s.execs {
		if e.owner == c && !e.spec.Detach {
			mine = append(mine, e)
		}
	}
	s.mu.Unlock()
	for _, e := range mine {
		e.killTree()
	}
	if last && orphan >= 0 {
		go s.orphaned(orphan)
	}
}

// orphaned waits for a host to come back, then ends the box.
func (s *Server) orphaned(patience time.Duration) {
	defer s.guard("orphan watch")
	if patience == 0 {
		patience = defaultOrphan // lost before Setup
	}
	const step = 250 * time.Millisecond
	for waited := time.Duration(0); waited < patience; waited += step {
		if conn, err := s.cfg.Dial(); err == nil {
			s.addControl(conn)
			return
		}
		again, _ := after(min(step, patience))
		select {
		case <-again:
		case <-s.over:
			return
		}
		s.mu.Lock()
		alone := len(s.controls) == 0
		s.mu.Unlock()
		if !alone {
			return
		}
	}
	s.signalled("host-gone")
}
