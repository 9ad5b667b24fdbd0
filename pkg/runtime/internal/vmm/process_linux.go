package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// controlFD is the child's end of the socket pair.
const controlFD = 3

// Process is a VMM process that this process started. Its methods may be called
// from any goroutine.
type Process struct {
	PID   int
	Start uint64 // with PID, its identity: see StartTime

	dir    string
	cmd    *exec.Cmd
	conn   *net.UnixConn
	built  chan struct{} // closed at StageBuild
	ready  chan struct{} // closed at StageReady
	main   chan struct{} // closed at StageMain
	done   chan struct{} // closed when the process is gone and report is final
	mu     sync.Mutex
	events []Event
	report *Report
}

// Spawn starts a VMM process for a box whose folder exists. exe is the program
// to run; empty means the caller's own. It returns when the process exists and
// has its configuration.
func Spawn(exe string, cfg Config) (*Process, error) {
	if exe == "" {
		exe = "/proc/self/exe" // survives the file being replaced
	}
	// A report that is there afterwards must be of this VM.
	if err := os.Remove(filepath.Join(cfg.Dir, reportName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("vmm: %w", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("vmm: %w", err)
	}
	defer theirs.Close()
	log, err := os.OpenFile(filepath.Join(cfg.Dir, logName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("vmm: %w", err)
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: exe, Args: []string{argv0 + cfg.BoxID}, Dir: "/",
		Env:    []string{"PATH=/nonexistent"}, // it runs nothing, and the caller's secrets are none of its business
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{theirs},
		// A session of its own keeps the terminal's signals away.
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("vmm: start the VMM process: %w", err)
	}
	p := &Process{
		PID: cmd.Process.Pid, Start: StartTime(cmd.Process.Pid), dir: cfg.Dir, cmd: cmd, conn: ours,
		built: make(chan struct{}), ready: make(chan struct{}), main: make(chan struct{}), done: make(chan struct{}),
	}
	if err := writeFrame(ours, cfg); err != nil {
		cmd.Process.Kill()
		go p.follow()
		<-p.done
		return nil, fmt.Errorf("vmm: configure the VMM process: %w", errors.Join(err, errors.New(p.logTail())))
	}
	go p.follow()
	return p, nil
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "vmm")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "control")
	c, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}

// maxEvents bounds what is kept of a process that says more than a VMM has to say.
const maxEvents = 64

// follow reads events until the process ends, and reaps it.
func (p *Process) follow() {
	once := func(c chan struct{}) func() { return sync.OnceFunc(func() { close(c) }) }
	built, ready, main := once(p.built), once(p.ready), once(p.main)
	for {
		var e Event
		if err := readFrame(p.conn, &e); err != nil {
			break
		}
		p.mu.Lock()
		if e.Report != nil {
			p.report = e.Report
			e.Report = nil // kept once
		}
		if len(p.events) < maxEvents {
			p.events = append(p.events, e)
		}
		p.mu.Unlock()
		switch e.Stage {
		case StageBuild:
			built()
		case StageReady:
			ready()
		case StageMain:
			main()
		}
	}
	err := p.cmd.Wait()
	p.conn.Close()
	p.mu.Lock()
	if p.report == nil {
		p.report = p.deathReport(err)
	}
	if !p.report.Clean() {
		p.report.Log = p.logTail()
	}
	p.mu.Unlock()
	close(p.done)
}

// deathReport is for a VMM that could not write its own.
func (p *Process) deathReport(err error) *Report {
	r := &Report{Cause: CauseVMMDeath, Stage: StageSpawn, Detail: "it exited without a report"}
	if err != nil {
		r.Detail = err.Error()
	}
	if n := len(p.events); n > 0 {
		r.Stage = p.events[n-1].Stage
	}
	if b, err := readTail(ConsolePath(p.dir), tailLimit); err == nil {
		r.Console = Printable(b)
	}
	return r
}

func (p *Process) logTail() string {
	b, _ := readTail(filepath.Join(p.dir, logName), tailLimit) // no log, nothing to show
	return Printable(b)
}

func readTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	off := max(0, fi.Size()-n)
	b := make([]byte, fi.Size()-off)
	got, err := f.ReadAt(b, off)
	if err == io.EOF {
		err = nil
	}
	return b[:got], err
}

// WaitBuilt returns when the process answers requests, before its guest runs. When it
// ends before, the error is a [*BootError].
func (p *Process) WaitBuilt(ctx context.Context) ([]Event, error) { return p.await(ctx, p.built) }

// WaitReady returns when the guest's agent answers, with the events so far.
// When the VM ends before, the error is a [*BootError].
func (p *Process) WaitReady(ctx context.Context) ([]Event, error) { return p.await(ctx, p.ready) }

// WaitMain is WaitReady for the start of the main command. When the guest refused
// to start it, the [*BootError]'s report says so.
func (p *Process) WaitMain(ctx context.Context) ([]Event, error) { return p.await(ctx, p.main) }

func (p *Process) await(ctx context.Context, stage <-chan struct{}) ([]Event, error) {
	select {
	case <-stage:
		return p.Events(), nil
	case <-p.done:
		select {
		case <-stage:
			return p.Events(), nil // it got there; that it ended since is for the next call to find
		default:
		}
		return nil, &BootError{p.Report()}
	case <-ctx.Done():
		return nil, fmt.Errorf("vmm: wait for the box to boot (last stage: %s): %w", p.lastStage(), ctx.Err())
	}
}

// Events returns what the process reported so far.
func (p *Process) Events() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Event(nil), p.events...)
}

func (p *Process) lastStage() Stage {
	if e := p.Events(); len(e) > 0 {
		return e[len(e)-1].Stage
	}
	return "not started"
}

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Report says how the VM ended; nil before Done.
func (p *Process) Report() *Report {
	select {
	case <-p.done:
		return p.report
	default:
		return nil
	}
}

// Stop ends a box's VMM process, ours or not, in order: the guest's processes
// get grace, and the VM slack beyond that. What is left then is killed. It calls
// begun when the process knows that it is to end, and returns when it is gone, or
// ctx is done.
func Stop(ctx context.Context, dir string, pid int, start uint64, grace, slack time.Duration, begun func()) error {
	return end(ctx, pid, start, func(fd int) error {
		asking, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		if AskStop(asking, dir, grace) != nil {
			if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil { // the socket may not be there yet
				return err
			}
		}
		begun()
		return nil
	}, grace+slack)
}

// Kill ends a VMM process at once.
func Kill(ctx context.Context, pid int, start uint64) error { return end(ctx, pid, start, nil, 0) }

// Wait returns when a VMM process is gone, or ctx is done.
func Wait(ctx context.Context, pid int, start uint64) error {
	fd, err := open(pid, start)
	if fd < 0 {
		return err
	}
	defer unix.Close(fd)
	for {
		if gone, err := waitGone(ctx, fd, time.Hour); gone || err != nil {
			return err
		}
	}
}

// open returns a descriptor of a process, or -1 and no error when it is gone.
func open(pid int, start uint64) (fd int, err error) {
	fd, err = unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return -1, nil
	} else if err != nil {
		return -1, fmt.Errorf("vmm: process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	if start == 0 || StartTime(pid) != start {
		unix.Close(fd)
		return -1, nil // the pid is somebody else's by now
	}
	return fd, nil
}

func end(ctx context.Context, pid int, start uint64, ask func(fd int) error, patience time.Duration) error {
	fd, err := open(pid, start)
	if fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if ask != nil {
		if err := ask(fd); err == unix.ESRCH {
			return nil
		} else if err != nil {
			return fmt.Errorf("vmm: end process %d: %w", pid, err)
		}
		if gone, err := waitGone(ctx, fd, patience); gone || err != nil {
			return err
		}
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err == unix.ESRCH {
		return nil
	} else if err != nil {
		return fmt.Errorf("vmm: end process %d: %w", pid, os.NewSyscallError("pidfd_send_signal", err))
	}
	if gone, err := waitGone(ctx, fd, time.Minute); gone || err != nil {
		return err
	}
	return fmt.Errorf("vmm: process %d does not die, even of SIGKILL", pid)
}

// waitGone polls a pidfd, which is readable when its process has ended.
func waitGone(ctx context.Context, fd int, limit time.Duration) (bool, error) {
	deadline := time.Now().Add(limit)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(min(left, 100*time.Millisecond).Milliseconds())+1) // ctx is looked at in between
		if err != nil && err != unix.EINTR {
			return false, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return true, nil
		}
	}
}
