package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// MainCommand is the box's own command: it runs whenever the box does, and when
// it ends the box stops. Environment, user and working directory are the box's.
// Its output is kept (see [LiteBox.Logs]), and any number of clients may attach
// to it (see [LiteBox.Attach]).
type MainCommand struct {
	Args       []string // replaces the image's command; empty: the image's
	Entrypoint []string // replaces the image's, and its command; nil: the image's; empty: none
	TTY        bool     // give it a terminal; standard error is part of standard output then
	Stdin      bool     // give it a standard input, which stays open until somebody attached closes it
}

func (m *MainCommand) check() error {
	if argv := m.resolve(imageConfig{}); m.Entrypoint != nil && len(argv) > 0 && argv[0] == "" {
		return fail(ErrInvalidArgument, "the command is empty")
	}
	for _, list := range [][]string{m.Args, m.Entrypoint} {
		for _, a := range list {
			if err := checkText("an argument of the command", a); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve is the command with what the image adds to it. A replaced entrypoint
// drops the image's command, which was meant for the image's entrypoint.
func (m *MainCommand) resolve(img imageConfig) []string {
	entry, args := m.Entrypoint, m.Args
	if entry == nil {
		entry = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	return append(append([]string(nil), entry...), args...)
}

// storedOptions are a box's options as its row has them.
type storedOptions struct {
	BoxOptions
	Command []string `json:",omitempty"` // the main command as it was last started
}

func (o *storedOptions) marshal() ([]byte, error) {
	b, err := json.Marshal(o)
	return b, wrap(ErrInternal, err, "store the box's options")
}

// bootMode is what becomes of the main command at a boot.
type bootMode int

const (
	bootMain bootMode = iota // start it
	bootHeld                 // start it when somebody attached asks for that
	bootIdle                 // leave it, for work on the box's files
)

// vmmMain is the main command for the VM process; nil for none.
func (b *LiteBox) vmmMain(rec *bootRecord, mode bootMode) (*vmm.Main, error) {
	m := b.opts.Main
	if m == nil || mode == bootIdle {
		return nil, nil
	}
	argv := m.resolve(rec.Config)
	if len(argv) == 0 || argv[0] == "" {
		return nil, fail(ErrInvalidArgument, "image %s has no command of its own: give one", b.opts.Rootfs)
	}
	cmd := Command(argv[0], argv[1:]...).WithStdin(m.Stdin)
	if m.TTY {
		cmd = cmd.TTY(true)
	}
	stop, err := stopSignal(rec.Config.StopSignal)
	if err != nil {
		b.rt.opts.Log.Warn("the image's stop signal", "image", b.opts.Rootfs.String(), "error", err)
	}
	return &vmm.Main{Spec: b.spec(cmd, rec.Config), Hold: mode == bootHeld, StopSignal: stop}, nil
}

// refused makes the report of a box whose main command could not be started into
// the caller's error, nil if the report is about something else.
func (b *LiteBox) refused(err error) error {
	var boot *vmm.BootError
	if !errors.As(err, &boot) || boot.Report.Main == nil || boot.Report.Main.Refused == nil {
		return nil
	}
	return b.runError(b.commandName(), boot.Report.Main.Refused)
}

func (b *LiteBox) commandName() string {
	if rec, err := readRecord(b.dir()); err == nil && b.opts.Main != nil {
		if argv := b.opts.Main.resolve(rec.Config); len(argv) > 0 {
			return argv[0]
		}
	}
	if m := b.opts.Main; m != nil && len(m.Entrypoint) > 0 {
		return m.Entrypoint[0]
	} else if m != nil && len(m.Args) > 0 {
		return m.Args[0]
	}
	return "the box's command"
}

// Signal sends a signal, by its number on Linux, to the main command and its
// process group. A box that runs none is ErrInvalidState.
func (b *LiteBox) Signal(ctx context.Context, signal int) error {
	if signal < 0 || signal > maxSignal {
		return fail(ErrInvalidArgument, "signal %d: choose 1 to %d", signal, maxSignal)
	}
	if err := b.mainRuns(ctx); err != nil {
		return err
	}
	if err := b.served(ctx, vmm.Signal(ctx, b.dir(), signal), fmt.Sprintf("signal box %s", b)); err != nil {
		return err
	}
	b.recordLater(EventKill, map[string]string{"signal": strconv.Itoa(signal)})
	b.rt.flushEvents() // before what comes of it
	return nil
}

// mainRuns is why there is no main command to talk to, nil if there is one.
func (b *LiteBox) mainRuns(ctx context.Context) error {
	if b.opts.Main == nil {
		return fail(ErrInvalidState, "box %s runs no command of its own: see BoxOptions.Main", b)
	}
	_, err := b.active(ctx)
	return err
}

// active finds the row of a box that must have a VM.
func (b *LiteBox) active(ctx context.Context) (*state.Box, error) {
	row, err := b.row(ctx)
	if err != nil {
		return nil, err
	}
	if s := BoxStatus(row.Status); !s.IsActive() {
		return nil, fail(ErrInvalidState, "box %s is %s: start it first", b, s)
	}
	return row, nil
}

// served puts an error of the box's service in the terms of the caller.
func (b *LiteBox) served(ctx context.Context, err error, op string) error {
	var refused *agentapi.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		switch refused.Code {
		case agentapi.CodeExited, agentapi.CodeState, agentapi.CodeNoProcess, agentapi.CodeNoTTY:
			return wrap(ErrInvalidState, refused, "%s", op)
		}
		return wrap(ErrRPC, refused, "%s", op)
	case ctx.Err() != nil || !errors.Is(err, vmm.ErrGone):
		return wrap(ErrRPCTransport, err, "%s", op)
	}
	// It has just ended, or is about to be seen as ended.
	if _, serr := b.active(ctx); serr != nil {
		return serr
	}
	return wrap(ErrPortal, err, "%s", op)
}

// Detach lets a running box outlive this process, as BoxOptions.Detach does. The
// box stays so until it stops.
func (b *LiteBox) Detach(ctx context.Context) error {
	if _, err := b.active(ctx); err != nil {
		return err
	}
	if err := b.served(ctx, vmm.Adopt(ctx, b.dir()), fmt.Sprintf("detach box %s", b)); err != nil {
		return err
	}
	b.rt.mu.Lock()
	defer b.rt.mu.Unlock()
	if p := b.rt.procs[b.id]; p != nil {
		p.detached = true
	}
	return nil
}
