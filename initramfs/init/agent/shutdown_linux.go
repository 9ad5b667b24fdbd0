package agent

import (
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// end takes the box down in order and halts it. The first caller does; others
// wait for it. answer runs when disks are clean, before the halt.
func (s *Server) end(reason string, grace time.Duration, answer func()) {
	s.mu.Lock()
	first := s.state != stateEnding
	s.state = stateEnding
	s.mu.Unlock()
	if !first {
		<-s.over
		if answer != nil {
			answer()
		}
		return
	}
	close(s.ending)
	s.broadcast(&agentapi.PowerOff{Reason: reason})
	s.killAll(grace)
	s.endArchives()
	s.cfg.Machine.Sync()
	if answer != nil {
		answer()
	}
	close(s.over)
	s.cfg.Machine.Halt()
}

// endArchives waits for copies, which ending has told to stop: a file that is
// open for writing would keep the disk from becoming read-only.
func (s *Server) endArchives() {
	done := make(chan struct{})
	go func() {
		s.archiving.Wait()
		close(done)
	}()
	late, _ := after(killPatience)
	select {
	case <-done:
	case <-late:
		s.log("a copy did not end in time")
	}
}

// killAll ends every process but this one: SIGTERM, SIGKILL after grace. As PID 1
// it gets every orphan to wait for, so no child left means no process left.
func (s *Server) killAll(grace time.Duration) {
	if grace > 0 {
		s.signalAll(unix.SIGTERM)
		s.signalAll(unix.SIGCONT)
		if s.noChildren(grace) {
			return
		}
	}
	s.signalAll(unix.SIGKILL)
	s.noChildren(killPatience)
}

func (s *Server) signalAll(sig unix.Signal) {
	if os.Getpid() == 1 {
		unix.Kill(-1, sig)
		return
	}
	// A test outside of a pid namespace, where -1 would be the whole machine.
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.execs {
		select {
		case <-e.running:
			e.tree.signal(e.pid, sig)
		default:
		}
	}
}

// killPatience is how long SIGKILL may take: a process in the middle of a disk
// write ends when that is done.
const killPatience = 5 * time.Second

// noChildren waits until there are no processes to wait for.
func (s *Server) noChildren(limit time.Duration) bool {
	pause := 200 * time.Microsecond
	for end := time.Now().Add(limit); ; {
		if unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil) == unix.ECHILD {
			return true
		}
		if !time.Now().Before(end) {
			return false
		}
		time.Sleep(pause)
		pause = min(2*pause, 10*time.Millisecond)
	}
}
