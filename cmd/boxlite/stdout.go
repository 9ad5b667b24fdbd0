package main

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stdout is where commands print. That what was asked for could not be printed is
// a failure, also of commands that look at no result of Println: exitCode asks.
var stdout checkedStdout

// checkedStdout is os.Stdout that remembers that a write failed.
type checkedStdout struct {
	mu  sync.Mutex
	err error // the first; nothing is written after it
}

func (o *checkedStdout) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := os.Stdout.Write(p)
	if err != nil {
		o.err = &stdoutError{err}
	}
	return n, o.err
}

// failure is what went wrong, once.
func (o *checkedStdout) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.err
	o.err = nil
	return err
}

// say prints a line of what a command is asked for.
func say(words ...any) { fmt.Fprintln(&stdout, words...) }

// stdoutError says that standard output takes no more.
type stdoutError struct{ err error }

func (e *stdoutError) Error() string {
	why := e.err
	if path := (*os.PathError)(nil); errors.As(why, &path) {
		why = path.Err // its name is only ours
	}
	return fmt.Sprintf("cannot write to standard output: %v", why)
}

func (e *stdoutError) Unwrap() error { return e.err }

// readerLeft reports whether an error is that nobody reads our output any more,
// as of boxlite ls | head -1, which is nothing to tell anybody.
func readerLeft(err error) bool {
	var out *stdoutError
	return errors.As(err, &out) && errors.Is(out.err, unix.EPIPE)
}
