package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// AttachOptions say what an attachment is for.
type AttachOptions struct {
	// Start boots the box if it does not run, and starts its main command when
	// the attachment is there, so that nothing of its output is missed.
	Start bool
	// Stdin connects standard input, where the command has one.
	Stdin bool
	// Backlog begins with the latest output from before: up to 256 KiB.
	Backlog bool
	// Rows and Cols are the size of the terminal; zero leaves it as it is.
	Rows, Cols int
}

// Attachment is a connection to a box's main command, one of any number. Its
// methods may be called from any goroutine.
//
// Read both outputs at once: a command that fills the one that is not read
// waits, as it would for a pipe, and with it everybody else who is attached.
type Attachment struct {
	box *LiteBox
	a   *vmm.Attachment

	once   sync.Once // of the end's timing
	mu     sync.Mutex
	stdin  io.WriteCloser
	stdout io.Reader
	stderr io.Reader
}

// Attach connects to the main command. Without AttachOptions.Start a box that
// does not run is ErrInvalidState. ctx bounds the start, not the attachment. A
// command that cannot be started is a [*CommandError].
func (b *LiteBox) Attach(ctx context.Context, o AttachOptions) (*Attachment, error) {
	if o.Rows < 0 || o.Rows > 0xffff || o.Cols < 0 || o.Cols > 0xffff {
		return nil, fail(ErrInvalidArgument, "terminal of %d by %d", o.Rows, o.Cols)
	}
	op := fmt.Sprintf("attach to box %s", b)
	if b.opts.Main == nil {
		return nil, fail(ErrInvalidState, "%s: it runs no command of its own: see BoxOptions.Main", op)
	}
	if o.Start {
		if _, err := b.ensure(ctx, bootHeld); err != nil {
			return nil, err
		}
	} else if err := b.mainRuns(ctx); err != nil {
		return nil, err
	}
	a, err := vmm.Attach(ctx, b.dir(), vmm.AttachRequest{
		Start: o.Start, Output: true, Backlog: o.Backlog, Rows: uint16(o.Rows), Cols: uint16(o.Cols),
	})
	if err != nil {
		return nil, b.attachError(ctx, err, op, o.Start)
	}
	b.times.noteFirst(PhaseStarted)
	if o.Start {
		b.countRun(nil)
	}
	at := &Attachment{box: b, a: a, stdout: a.Stdout}
	if a.Stderr != nil {
		at.stderr = a.Stderr
	}
	if o.Stdin && a.Stdin != nil {
		at.stdin = a.Stdin
	}
	if !o.Start && a.TTY && (o.Rows != 0 || o.Cols != 0) {
		_ = at.ResizeTTY(ctx, o.Rows, o.Cols) // a command that has just ended has none
	}
	return at, nil
}

func (b *LiteBox) attachError(ctx context.Context, err error, op string, start bool) error {
	var refused *agentapi.Error
	if start && errors.As(err, &refused) && refused.Code != agentapi.CodeNoProcess && refused.Op != "attach" {
		return b.runError(b.commandName(), refused)
	}
	if errors.Is(err, vmm.ErrGone) && ctx.Err() == nil {
		if r := b.lastReport(); r != nil && !r.Clean() {
			return &Error{Kind: ErrEngine, Op: op, Err: fmt.Errorf("%s: %w", r, err)}
		}
	}
	return b.served(ctx, err, op)
}

// TTY reports whether the command has a terminal.
func (a *Attachment) TTY() bool { return a.a.TTY }

// Stdin takes standard input: once, then nil; nil also when there is none.
// Closing it is end of file to the command, for good.
func (a *Attachment) Stdin() io.WriteCloser { return take(&a.mu, &a.stdin) }

// Stdout takes standard output: once, then nil. It is an [io.ReadCloser] that
// ends when the command has closed it; closing it before that closes it for the
// command of a box that is not detached, and otherwise only ends the reading.
func (a *Attachment) Stdout() io.Reader { return take(&a.mu, &a.stdout) }

// Stderr takes standard error, as Stdout; nil with a terminal.
func (a *Attachment) Stderr() io.Reader { return take(&a.mu, &a.stderr) }

// Wait returns how the command ended, to any number of callers. Outputs that
// nobody took are read and dropped. The box stops by itself then: see
// [LiteBox.Wait].
func (a *Attachment) Wait(ctx context.Context) (ExecResult, error) {
	for _, r := range []io.Reader{a.Stdout(), a.Stderr()} {
		if r != nil {
			go io.Copy(io.Discard, r)
		}
	}
	select {
	case <-a.a.Done():
	case <-ctx.Done():
		return ExecResult{}, ctx.Err()
	}
	r, err := a.a.Result()
	if err != nil {
		if errors.Is(err, vmm.ErrGone) {
			err = fmt.Errorf("%w: %w", guest.ErrClosed, err)
		}
		return ExecResult{}, a.box.lost(err, fmt.Sprintf("wait for the command of box %s", a.box))
	}
	a.once.Do(func() { a.box.times.note(PhaseStop) })
	return resultOf(&r.Status), nil
}

// Signal sends a signal, by its number on Linux, to the command's process group.
// One that has ended is ErrInvalidState.
func (a *Attachment) Signal(ctx context.Context, signal int) error { return a.box.Signal(ctx, signal) }

// ResizeTTY sets the size of the command's terminal.
func (a *Attachment) ResizeTTY(ctx context.Context, rows, cols int) error {
	if rows < 0 || rows > 0xffff || cols < 0 || cols > 0xffff {
		return fail(ErrInvalidArgument, "terminal of %d by %d", rows, cols)
	}
	return a.box.served(ctx, vmm.Resize(ctx, a.box.dir(), uint16(rows), uint16(cols)), fmt.Sprintf("resize the terminal of box %s", a.box))
}

// Detach ends the attachment and leaves the command running. Wait fails then,
// unless the command has ended before.
func (a *Attachment) Detach() error { return a.a.Close() }

// Wait returns when the box has stopped, from whichever process it runs, with how
// its main command ended. That is the zero result for a box without one. A box
// that has stopped before is not waited for; one that was never started is
// ErrInvalidState. When nobody knows how the command ended, because its VM was
// killed, the error is ErrEngine.
func (b *LiteBox) Wait(ctx context.Context) (ExecResult, error) {
	defer b.times.note(PhaseStopped)
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return ExecResult{}, err
	}
	var main *vmm.MainResult
	switch s := BoxStatus(row.Status); {
	case s.IsConfigured():
		return ExecResult{}, fail(ErrInvalidState, "box %s was never started: there is nothing to wait for", b)
	case s.IsActive():
		if main, err = b.waitEnd(ctx, row); err != nil {
			return ExecResult{}, err
		}
	}
	switch {
	case b.opts.Main == nil:
		return ExecResult{}, nil
	case main == nil:
		main = b.lastMain()
	}
	if main != nil && main.Refused == nil {
		return resultOf(&main.Status), nil
	}
	code := 0
	if main != nil {
		code = main.ExitCode()
	} else if row, err = b.rt.find(ctx, string(b.id)); err == nil && row.ExitCode != nil {
		code = *row.ExitCode // of a run before the last, which was without the command
	} else if why := b.rt.killedFor(ctx, string(b.id)); why != "" {
		return ExecResult{}, fail(ErrEngine, "box %s: how its command ended is not known: %s", b, why)
	} else {
		return ExecResult{}, fail(ErrEngine, "box %s: how its command ended is not known: its VM was killed, or failed", b)
	}
	return ExecResult{ExitCode: code, Signal: max(-code, 0)}, nil
}

// waitEnd waits for the end of the VM that a row names. It returns how the main
// command ended where only those who wait can learn it.
func (b *LiteBox) waitEnd(ctx context.Context, row *state.Box) (main *vmm.MainResult, err error) {
	if !b.owns(row.PID) {
		if b.opts.Main != nil {
			// The row of a box that is removed when it stops will not tell.
			if main, err = b.watchMain(ctx); err != nil {
				return nil, err
			}
		}
		if err := vmm.Wait(ctx, row.PID, row.PIDStart); err != nil {
			return nil, wrap(ErrEngine, err, "wait for box %s", b)
		}
	}
	return main, b.settle(ctx, row)
}

// owns reports whether this runtime started the VM, and so gets its report.
func (b *LiteBox) owns(pid int) bool {
	b.rt.mu.Lock()
	defer b.rt.mu.Unlock()
	p := b.rt.procs[b.id]
	return p != nil && p.PID == pid
}

// watchMain waits for the end of the main command; nil when that did not come in
// order, which is told elsewhere.
func (b *LiteBox) watchMain(ctx context.Context) (*vmm.MainResult, error) {
	a, err := vmm.Attach(ctx, b.dir(), vmm.AttachRequest{})
	if err != nil {
		return nil, ctx.Err()
	}
	defer a.Close()
	select {
	case <-a.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r, _ := a.Result() // a lost connection is the end of the VM, for which Wait waits
	return r, nil
}

// lastMain is how the main command of the last VM ended, nil where nobody knows.
func (b *LiteBox) lastMain() *vmm.MainResult {
	if rep, err := vmm.ReadReport(b.dir()); err == nil && rep.Main != nil {
		return rep.Main
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.report != nil {
		return b.report.Main
	}
	return nil
}

// resultOf is the guest's word on how a command ended, as far as it can be true.
func resultOf(s *agentapi.ExitStatus) ExecResult {
	r := ExecResult{
		ExitCode: int(s.Code), Signal: int(s.Signal & 0x7f), TimedOut: s.TimedOut, OOM: s.OOMKilled,
		Wall: max(s.Wall, 0), CPU: max(s.User+s.System, 0), MaxRSS: int64(min(s.MaxRSS, 1<<62)), Peak: int64(min(s.Peak, 1<<62)),
	}
	if r.Signal != 0 {
		r.ExitCode = -r.Signal
	} else {
		r.ExitCode &= 0xff
	}
	return r
}
