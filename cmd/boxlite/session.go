package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/runtime"
	"golang.org/x/sys/unix"
)

// session is a command in a box that our standard streams are joined to: a
// [runtime.Execution] or a [runtime.Attachment].
type session interface {
	Stdin() io.WriteCloser
	Stdout() io.Reader
	Stderr() io.Reader
	Wait(context.Context) (runtime.ExecResult, error)
	Signal(ctx context.Context, signal int) error
	ResizeTTY(ctx context.Context, rows, cols int) error
}

// streamOptions say how.
type streamOptions struct {
	stdin     bool // our standard input is the command's
	tty       bool // the command has a terminal
	keepStdin bool // the end of ours is not the end of the command's
	keys      []byte
	leave     func() error // called when the user typed keys
}

// errLeft says that the user left the command running.
var errLeft = errors.New("detached")

// stream joins the command to our own standard streams until it ends, or until
// the user leaves, which is errLeft.
func stream(ctx context.Context, s session, o streamOptions) (_ runtime.ExecResult, err error) {
	if o.tty && o.stdin && isTerminal(os.Stdin) {
		restore, err := rawTerminal(os.Stdin)
		if err != nil {
			return runtime.ExecResult{}, err
		}
		defer restore()
	}
	if o.tty {
		if t := anyTerminal(); t != nil {
			defer forwardResize(ctx, s, t)()
		}
	}
	left := make(chan error, 1)
	var leaving atomic.Bool // the end that follows is the user's
	if stdin := s.Stdin(); stdin != nil && o.stdin {
		go func() { // ends with the process: a read of standard input cannot be taken back
			in := io.Reader(os.Stdin)
			if o.tty && len(o.keys) > 0 {
				in = &detachReader{from: os.Stdin, keys: o.keys}
			}
			_, err := io.Copy(stdin, in) // the command may end, or close its input, first
			switch {
			case errors.Is(err, errDetachKeys):
				leaving.Store(true)
				left <- o.leave()
			case !o.keepStdin:
				stdin.Close()
			}
		}()
	}
	type end struct {
		result runtime.ExecResult
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		var out sync.WaitGroup
		var outErr, errErr error
		out.Go(func() { outErr = copyOut(os.Stdout, s.Stdout()) })
		out.Go(func() { errErr = copyOut(os.Stderr, s.Stderr()) })
		out.Wait()
		result, err := s.Wait(ctx)
		if err == nil { // an output that was cut short is then explained by more than a lost connection
			err = errors.Join(outErr, errErr)
		}
		ended <- end{result, err}
	}()
	select {
	case e := <-ended:
		if e.err == nil || !leaving.Load() {
			return e.result, e.err
		}
		err = <-left
	case err = <-left:
	}
	if err == nil {
		err = errLeft
	}
	return runtime.ExecResult{}, err
}

// sayLeft tells a user who typed the detach keys that it worked.
func sayLeft(b *runtime.LiteBox) error {
	fmt.Fprintf(os.Stderr, "\nboxlite: box %s runs on\n", orElse(b.Name(), string(b.ID())))
	return nil
}

func copyOut(to *os.File, from io.Reader) error {
	if from == nil {
		return nil
	}
	_, err := io.Copy(to, from)
	if err == nil {
		return nil
	}
	// Nobody takes the output any more: the command shall hear of it, as it
	// would from a pipe here, and not wait for ever.
	if c, ok := from.(io.Closer); ok {
		c.Close()
	}
	if errors.Is(err, unix.EPIPE) {
		return nil // what becomes of the command then is its own exit code
	}
	return fmt.Errorf("output of the command: %w", err)
}

// resultCode makes the command's end the program's.
func resultCode(r runtime.ExecResult) error {
	if code := r.ShellCode(); code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// commandFailed gives an error of a command that did not start the code of a shell.
func commandFailed(err error) error {
	var cmd *runtime.CommandError
	if errors.As(err, &cmd) {
		return &exitError{code: cmd.ExitCode, err: err}
	}
	return err
}

// onEach does the same for one box after the other: all are tried, and what do
// says, or else the name, is printed of those that worked.
func onEach(ctx context.Context, rt *runtime.Runtime, names []string, do func(*runtime.LiteBox) (string, error)) error {
	var failed failures
	for _, name := range names {
		box, err := rt.Get(ctx, name)
		if err == nil {
			var said string
			if said, err = do(box); err == nil {
				say(orElse(said, name))
			}
		}
		failed.add(err)
	}
	return failed.code()
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// warn tells of what does not change the outcome.
func warn(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "boxlite: %s\n", message(withRemedy(err)))
	}
}

// maxMessage is how many bytes of a message are printed.
const maxMessage = 4 << 10

// message is text as a terminal may have it: guests have a hand in many.
func message(text string) string {
	if len(text) <= maxMessage {
		return runtime.Printable(text)
	}
	return fmt.Sprintf("%s... (and %d bytes more)", runtime.Printable(text[:maxMessage]), len(text)-maxMessage)
}
