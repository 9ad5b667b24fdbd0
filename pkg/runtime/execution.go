package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// Execution is a command that runs, or ran, in a box. Its methods may be called
// from any goroutine.
type Execution struct {
	box  *LiteBox
	proc *guest.Process
	told sync.Once // of its end

	mu     sync.Mutex
	stdin  io.WriteCloser
	stdout io.Reader
	stderr io.Reader
}

// ExecResult says how a command ended.
type ExecResult struct {
	ExitCode int           // 0 to 255, or minus the number of the signal that ended it
	Signal   int           // that signal, 0 for none
	TimedOut bool          // BoxCommand.Timeout passed
	OOM      bool          // the guest's kernel killed a process of it for want of memory
	Wall     time.Duration // from start to end
	CPU      time.Duration // user and system time
	MaxRSS   int64         // bytes of the largest process
	Peak     int64         // bytes, most memory the whole tree had; 0 when not known
}

// Success reports whether the exit code was 0.
func (r ExecResult) Success() bool { return r.ExitCode == 0 }

// Code is ExitCode.
func (r ExecResult) Code() int { return r.ExitCode }

// ShellCode is the result as shells give it: the exit code, or 128 and the
// number of the signal.
func (r ExecResult) ShellCode() int {
	if r.Signal != 0 {
		return 128 + r.Signal
	}
	return r.ExitCode
}

// Run starts a command, and the box before it if it does not run. ctx bounds the
// start, not the command. A command that cannot be started is a [*CommandError].
func (b *LiteBox) Run(ctx context.Context, cmd BoxCommand) (*Execution, error) {
	if err := cmd.check(); err != nil {
		return nil, err
	}
	link, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	p, err := link.client.Exec(ctx, b.spec(cmd, link.image))
	b.countRun(err)
	if err != nil {
		return nil, b.runError(cmd.args[0], err)
	}
	b.times.noteFirst(PhaseStarted)
	b.rt.reach(stepExecuting)
	return newExecution(b, p, cmd), nil
}

// spec turns a command into what the agent is asked for: the image's settings,
// over them the box's, over them the command's.
func (b *LiteBox) spec(cmd BoxCommand, img imageConfig) agentapi.ExecSpec {
	s := agentapi.ExecSpec{
		Args: cmd.args, Env: append([]string(nil), img.Env...),
		Dir:  first(cmd.dir, b.opts.WorkingDir, img.WorkingDir),
		User: first(cmd.user, b.opts.User, img.User),
		TTY:  cmd.tty, Rows: uint16(cmd.rows), Cols: uint16(cmd.cols),
		Streams: agentapi.WantStdout | agentapi.WantStderr,
		Timeout: cmd.timeout,
	}
	if cmd.stdin {
		s.Streams |= agentapi.WantStdin
	}
	if cmd.detach {
		s.Detach, s.Streams = true, 0
	}
	for _, list := range [][]EnvVar{b.opts.Env, cmd.env} {
		for _, e := range list {
			s.Env = append(s.Env, e.Name+"="+e.Value)
		}
	}
	return s
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// runError puts the agent's refusal in the terms of the caller.
func (b *LiteBox) runError(name string, err error) error {
	var refused *agentapi.Error
	if errors.As(err, &refused) {
		return &Error{Kind: ErrRun, Op: fmt.Sprintf("run %q in box %s", name, b), Err: &CommandError{Command: name, ExitCode: vmm.RefusedCode(refused), Err: refused}}
	}
	return b.lost(err, fmt.Sprintf("run %q in box %s", name, b))
}

// lost explains a broken connection by what became of the VM, where that is known.
func (b *LiteBox) lost(err error, op string) error {
	if !errors.Is(err, guest.ErrClosed) {
		return wrap(ErrRPC, err, "%s", op)
	}
	if why := b.rt.killedFor(context.Background(), string(b.id)); why != "" {
		return &Error{Kind: ErrEngine, Op: op, Err: fmt.Errorf("%s: %w", why, err)}
	}
	if r := b.lastReport(); r != nil {
		return &Error{Kind: ErrEngine, Op: op, Err: fmt.Errorf("%s: %w", r, err)}
	}
	return wrap(ErrRPCTransport, err, "%s", op)
}

// ID names the execution within its box.
func (e *Execution) ID() string { return fmt.Sprintf("%016x", e.proc.ID) }

// Stdin takes standard input: once, then nil; nil also when the command has
// none. Closing it is end of file to the command.
func (e *Execution) Stdin() io.WriteCloser { return take(&e.mu, &e.stdin) }

// Stdout takes standard output: once, then nil. It ends when the command and
// all that inherited it have closed it. A reader that stops reading stops the
// command's writes.
func (e *Execution) Stdout() io.Reader { return take(&e.mu, &e.stdout) }

// Stderr takes standard error, as Stdout; nil with a terminal.
func (e *Execution) Stderr() io.Reader { return take(&e.mu, &e.stderr) }

// take gives out what can be had once.
func take[T any](mu *sync.Mutex, from *T) (got T) {
	mu.Lock()
	defer mu.Unlock()
	got, *from = *from, got
	return got
}

// Lines iterates over a stream's lines, without their line ends. A line longer
// than a MiB ends the iteration with an error.
func Lines(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if r == nil {
			return
		}
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			if !yield(s.Text(), nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield("", err)
		}
	}
}

// Wait returns how the command ended, to any number of callers. Streams that
// nobody took are read and dropped, so that the command cannot hang on them.
func (e *Execution) Wait(ctx context.Context) (ExecResult, error) {
	for _, r := range []io.Reader{e.Stdout(), e.Stderr()} {
		if r != nil {
			go io.Copy(io.Discard, r)
		}
	}
	s, err := e.proc.Wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ExecResult{}, err
		}
		return ExecResult{}, e.box.lost(err, "wait for a command in box "+e.box.String())
	}
	e.tellEnd() // before the caller may close the runtime
	return resultOf(&s), nil
}

// Kill ends the command and all its descendants with SIGKILL. One that has ended
// is no error.
func (e *Execution) Kill(ctx context.Context) error {
	return e.called(e.proc.Kill(ctx), "kill a command")
}

// Signal sends a signal to the command's process group. One that has ended is ErrInvalidState.
func (e *Execution) Signal(ctx context.Context, signal int) error {
	return e.called(e.proc.Signal(ctx, signal), "signal a command")
}

// ResizeTTY sets the size of the command's terminal.
func (e *Execution) ResizeTTY(ctx context.Context, rows, cols int) error {
	if rows < 0 || rows > 0xffff || cols < 0 || cols > 0xffff {
		return fail(ErrInvalidArgument, "terminal of %d by %d", rows, cols)
	}
	return e.called(e.proc.Resize(ctx, uint16(rows), uint16(cols)), "resize a terminal")
}

func (e *Execution) called(err error, op string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, agentapi.ErrExited):
		return wrap(ErrInvalidState, err, "%s in box %s", op, e.box)
	case errors.Is(err, agentapi.ErrNoTTY):
		return fail(ErrInvalidState, "%s in box %s: the command has no terminal", op, e.box)
	}
	return e.box.lost(err, op+" in box "+e.box.String())
}
