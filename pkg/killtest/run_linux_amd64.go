package killtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Run starts a program and kills it, with all its threads, before the system call that
// changes files for the nth time after [Begin], where n is 0 for the first. It reports
// false for a program that ended before by itself. What the program writes may only go
// to files: cmd.Stdout and cmd.Stderr are nil or of type *os.File. No other child of
// this process may be running, as the end of one could be taken for a thread's.
func Run(cmd *exec.Cmd, n int) (killed bool, err error) {
	// Only the thread that has started a program may trace it, and waits for it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	defer cmd.Process.Release()
	t := tracer{pid: cmd.Process.Pid, left: n}
	return t.run()
}

type tracer struct {
	pid   int
	begun bool
	left  int // changes until the end
}

func (t *tracer) run() (killed bool, err error) {
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	for first := true; ; first = false {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return false, os.NewSyscallError("wait4", err)
		}
		if first {
			if err := unix.PtraceSetOptions(t.pid, options); err != nil {
				return false, os.NewSyscallError("PTRACE_SETOPTIONS", err)
			}
		}
		switch {
		case tid == t.pid && ws.Signaled() && killed:
			return true, nil
		case tid == t.pid && ws.Exited() && ws.ExitStatus() == 0:
			return false, nil
		case tid == t.pid && !ws.Stopped():
			return false, fmt.Errorf("it ended with status %d, signal %v", ws.ExitStatus(), ws.Signal())
		case !ws.Stopped():
			continue // a thread
		}
		deliver := 0
		switch s := ws.StopSignal(); s {
		case unix.SIGTRAP | 0x80:
			if !killed && t.changes(tid) {
				killed = true
				_ = unix.Kill(t.pid, unix.SIGKILL)
				continue
			}
		case unix.SIGTRAP, unix.SIGSTOP: // of the tracing itself
		default:
			deliver = int(s)
		}
		if err := unix.PtraceSyscall(tid, deliver); err != nil && err != unix.ESRCH { // another thread may have ended all
			return false, os.NewSyscallError("PTRACE_SYSCALL", err)
		}
	}
}

// changes reports whether a thread, which stopped at a system call, is about to make
// the change before which the program is to die.
func (t *tracer) changes(tid int) bool {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return false
	}
	if int64(r.Rax) != -int64(unix.ENOSYS) { // which it is before a call only
		return false
	}
	if r.Orig_rax == unix.SYS_WRITE && int32(r.Rdi) == beginFD {
		t.begun = true
		return false
	}
	if !t.begun || !isChange(&r) {
		return false
	}
	t.left--
	return t.left < 0
}

func isChange(r *unix.PtraceRegs) bool {
	switch r.Orig_rax {
	case unix.SYS_OPENAT:
		return r.Rdx&(unix.O_CREAT|unix.O_TRUNC) != 0
	case unix.SYS_OPENAT2: // its flags are in memory
		return true
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_SENDFILE, unix.SYS_COPY_FILE_RANGE, unix.SYS_SPLICE,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC,
		unix.SYS_MKDIR, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINK, unix.SYS_LINKAT,
		unix.SYS_UNLINK, unix.SYS_UNLINKAT, unix.SYS_RMDIR, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_FSETXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_UTIMENSAT:
		return true
	}
	return false
}
