package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func terminalSize(f *os.File) (rows, cols int) {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 24, 80
	}
	return rows, cols
}

// rawTerminal hands every key to the box. The result puts things back.
func rawTerminal(f *os.File) (restore func(), err error) {
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return func() { term.Restore(int(f.Fd()), old) }, nil
}

// forwarded are the signals that go to the command instead of to us.
var forwarded = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGALRM,
}

// signalLimit bounds the delivery of one signal to a guest that does not answer.
const signalLimit = 5 * time.Second

// forwardSignals passes signals on to the command until the result is called.
func forwardSignals(ctx context.Context, ex *runtime.Execution) (stop func()) {
	return onSignal(forwarded, func(s os.Signal) {
		ctx, cancel := context.WithTimeout(ctx, signalLimit)
		defer cancel()
		// A command that has ended needs no signal, and there is nobody to tell.
		_ = ex.Signal(ctx, int(s.(unix.Signal)))
	})
}

// forwardResize passes the size of our terminal on until the result is called.
func forwardResize(ctx context.Context, ex *runtime.Execution) (stop func()) {
	resize := func(os.Signal) {
		rows, cols := terminalSize(os.Stdin)
		_ = ex.ResizeTTY(ctx, rows, cols) // as above
	}
	resize(nil) // it may have changed during the boot
	return onSignal([]os.Signal{unix.SIGWINCH}, resize)
}

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
	return func() {
		signal.Stop(ch)
		close(done)
	}
}
