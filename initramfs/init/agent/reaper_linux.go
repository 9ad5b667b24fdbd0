package agent

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper is the only one in the process that waits for children. PID 1 gets all
// orphans of the guest, so it waits for any child and tells executions by pid.
type reaper struct {
	mu    sync.Mutex
	procs map[int]func(ended) // started and not yet reaped
	forks int                 // forks in flight: their pids are not known yet
	early map[int]ended       // reaped while forks were in flight
}

// ended is how a process ended.
type ended struct {
	status unix.WaitStatus
	usage  unix.Rusage
}

func newReaper() *reaper {
	return &reaper{procs: map[int]func(ended){}, early: map[int]ended{}}
}

// haltSignals are what poweroff, halt and reboot of the usual init systems send
// to PID 1: sysvinit and busybox signals, and systemd's real-time ones
// (systemd(1), "Signals").
var haltSignals = map[os.Signal]string{
	unix.SIGTERM: "reboot", unix.SIGINT: "reboot", unix.SIGUSR1: "halt", unix.SIGUSR2: "poweroff", unix.SIGPWR: "poweroff",
	unix.Signal(37): "halt", unix.Signal(38): "poweroff", unix.Signal(39): "reboot",
}

// ignored are the signals whose default, or the Go runtime's, would end PID 1.
// They are caught, not ignored: what is ignored stays so in every child.
var ignored = []os.Signal{
	unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGALRM, unix.SIGVTALRM, unix.SIGSTKFLT, unix.SIGXCPU, unix.SIGXFSZ,
	unix.SIGIO, unix.SIGSYS, unix.SIGTRAP, unix.SIGILL, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE,
}

// start begins to reap and to listen for signals to PID 1.
func (r *reaper) start(halt func(reason string)) {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	go func() {
		r.reap()
		for range child {
			r.reap()
		}
	}()
	other := make(chan os.Signal, 16)
	list := ignored
	for sig := range haltSignals {
		list = append(list, sig)
	}
	signal.Notify(other, list...)
	go func() {
		for sig := range other {
			if reason, ok := haltSignals[sig]; ok {
				halt(reason)
			}
		}
	}()
}

// reap takes every child that has ended.
func (r *reaper) reap() {
	for {
		var e ended
		r.mu.Lock()
		pid, err := unix.Wait4(-1, &e.status, unix.WNOHANG|unix.WALL, &e.usage)
		if err == unix.EINTR {
			r.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			r.mu.Unlock()
			return
		}
		f := r.procs[pid]
		delete(r.procs, pid)
		if f == nil && r.forks > 0 {
			r.early[pid] = e
		}
		r.mu.Unlock()
		if f != nil {
			f(e)
		}
	}
}

// spawn runs fork, which returns the pid of a new child, and has onExit called
// once with that child's end. onExit must not block.
func (r *reaper) spawn(fork func() (int, error), onExit func(ended)) (int, error) {
	r.mu.Lock()
	r.forks++
	r.mu.Unlock()
	pid, err := fork()
	r.mu.Lock()
	r.forks--
	var e ended
	dead := false
	if err == nil {
		// An entry may also be of an orphan that had this number before.
		if e, dead = r.early[pid]; dead {
			dead = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil) == unix.ECHILD
		}
		if !dead {
			r.procs[pid] = onExit
		}
	}
	if r.forks == 0 {
		clear(r.early)
	}
	r.mu.Unlock()
	if dead {
		onExit(e)
	}
	return pid, err
}

// signalGroup signals the process group of a child that spawn returned, unless
// it has been reaped: then its number may be another's.
func (r *reaper) signalGroup(pid int, sig unix.Signal) (alive bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, alive = r.procs[pid]; alive {
		err = unix.Kill(-pid, sig)
	}
	return alive, err
}
