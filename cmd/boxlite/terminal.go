package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// anyTerminal is the standard stream that is a terminal and has a size, nil for none.
func anyTerminal() *os.File {
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if isTerminal(f) {
			return f
		}
	}
	return nil
}

// terminalSize is zero where it cannot be told.
func terminalSize(f *os.File) (rows, cols int) {
	if f == nil {
		return 0, 0
	}
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return rows, cols
}

// rawTerminal hands every key to the box. The result puts things back.
func rawTerminal(f *os.File) (restore func(), err error) {
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	restore = sync.OnceFunc(func() { term.Restore(int(f.Fd()), old) })
	undoRaw.Store(&restore)
	return restore, nil
}

// undoRaw is for an end that runs no deferred calls.
var undoRaw atomic.Pointer[func()]

// forwarded are the signals that go to the command instead of to us.
var forwarded = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGALRM,
}

// guestSignal is a signal's number in the guest: Linux's, whatever this host is.
func guestSignal(s unix.Signal) int {
	n, err := runtime.ParseSignal(unix.SignalName(s))
	if err != nil {
		return int(s)
	}
	return n
}

// callLimit bounds one small request to a guest that does not answer.
const callLimit = 5 * time.Second

// maxInterrupts is how many SIGINT and SIGTERM that did not reach the command end
// this program.
const maxInterrupts = 3

// forwardSignals passes signals on to the command until the result is called. A
// user who interrupts again and again although nothing comes of it is let go: the
// box then ends as it does when its caller dies.
func forwardSignals(ctx context.Context, s session) (stop func()) {
	var undelivered atomic.Int32
	queue := make(chan unix.Signal, 16)
	done := make(chan struct{})
	go func() { // in order, and without keeping the next interrupt from being seen
		for {
			select {
			case sig := <-queue:
				ctx, cancel := context.WithTimeout(ctx, callLimit)
				// A command that has ended needs no signal, and there is nobody to tell.
				if err := s.Signal(ctx, guestSignal(sig)); err == nil {
					undelivered.Store(0)
				}
				cancel()
			case <-done:
				return
			}
		}
	}()
	off := onSignal(forwarded, func(got os.Signal) {
		sig := got.(unix.Signal)
		if (sig == unix.SIGINT || sig == unix.SIGTERM) && undelivered.Add(1) >= maxInterrupts {
			fmt.Fprintf(os.Stderr, "boxlite: interrupted %d times with no answer from the box\n", maxInterrupts)
			if undo := undoRaw.Load(); undo != nil {
				(*undo)()
			}
			os.Exit(128 + int(sig))
		}
		select {
		case queue <- sig:
		default: // more than anybody means
		}
	})
	return sync.OnceFunc(func() {
		off()
		close(done)
	})
}

// forwardResize passes the size of our terminal on until the result is called.
func forwardResize(ctx context.Context, s session, t *os.File) (stop func()) {
	resize := func(os.Signal) {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		if rows, cols := terminalSize(t); rows > 0 && cols > 0 {
			_ = s.ResizeTTY(ctx, rows, cols) // as above
		}
	}
	go resize(nil) // it may have changed during the boot
	return onSignal([]os.Signal{unix.SIGWINCH}, resize)
}

// onSignal calls do with each signal until stop is called, which may be twice.
func onSignal(signals []os.Signal, do func(os.Signal)) (stop func()) {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, signals...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-ch:
				do(s)
			case <-done:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		signal.Stop(ch)
		close(done)
	})
}

// interruptError is the signal that ended what was being done.
type interruptError struct{ sig unix.Signal }

func (e *interruptError) Error() string { return "interrupted" }

// untilSignal is done when a signal asks this program to end. Until stop is
// called such signals do nothing else.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	off := onSignal([]os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}, func(s os.Signal) {
		cancel(&interruptError{s.(unix.Signal)})
	})
	return ctx, func() {
		off()
		cancel(nil)
	}
}

// untilOneSignal is untilSignal for what may wait where ctx does not reach, as a write
// to standard output: a second signal ends this program at once.
func untilOneSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, stop = untilSignal(parent)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// signalOf is the signal that ended ctx, 0 for none.
func signalOf(ctx context.Context) unix.Signal {
	var e *interruptError
	if errors.As(context.Cause(ctx), &e) {
		return e.sig
	}
	return 0
}

// interrupted says so when it was the user who ended it, with the exit code that
// programs have which die of the signal.
func interrupted(ctx context.Context, err error) error {
	if s := signalOf(ctx); s != 0 {
		return &exitError{code: 128 + int(s), err: errors.New("interrupted")}
	}
	return err
}

// orInterrupted is interrupted for what went wrong; it leaves success alone.
func orInterrupted(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return interrupted(ctx, err)
}
