package runtime

import (
	"errors"
	"fmt"
)

// Kind is what an [Error] is about. Kinds are errors themselves, for errors.Is:
//
//	if errors.Is(err, runtime.ErrNotFound) { … }
type Kind string

// Kinds of errors.
const (
	ErrUnsupportedEngine Kind = "unsupported engine"  // this host has no usable hypervisor
	ErrEngine            Kind = "engine error"        // the virtual machine could not be built, booted or kept running
	ErrConfig            Kind = "configuration error" // options of the runtime or a box contradict or miss something
	ErrStorage           Kind = "storage error"       // files of the home directory
	ErrImage             Kind = "image error"         // an image could not be found, pulled or unpacked
	ErrPortal            Kind = "portal error"        // the connection to a box's guest
	ErrNetwork           Kind = "network error"       // a registry for something other than a box's image did not answer
	ErrRPC               Kind = "guest call error"    // the guest's agent refused or garbled a call
	ErrRPCTransport      Kind = "guest call lost"     // the connection broke during a call
	ErrInternal          Kind = "internal error"      // a defect of boxlite: nothing that a caller does may provoke it
	ErrRun               Kind = "run error"           // a command could not be started
	ErrUnsupported       Kind = "unsupported"         // not possible on this host or in this version
	ErrNotFound          Kind = "not found"           // no such box, image or volume
	ErrAlreadyExists     Kind = "already exists"      // a name in use
	ErrInvalidState      Kind = "invalid state"       // the box's status does not allow it
	ErrDatabase          Kind = "database error"      // the home's state
	ErrMetadata          Kind = "metadata error"      // stored options or image configuration cannot be read
	ErrInvalidArgument   Kind = "invalid argument"    // a value that cannot be
)

func (k Kind) Error() string { return string(k) }

// Error is every error of this package. Its text says what, which, and where
// it is known what to do.
type Error struct {
	Kind Kind
	Op   string // what was being done, with what it was done to
	Err  error  // cause
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Op
	case e.Op == "":
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

// Unwrap returns the kind and the cause, so that errors.Is and As find both.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// wrap gives an error a kind, unless it already has one.
func wrap(k Kind, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		k = known.Kind
	}
	return &Error{Kind: k, Op: fmt.Sprintf(format, args...), Err: err}
}

// fail makes an error without a cause below it.
func fail(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// CommandError says that a command could not be started in a box, in the terms
// of a shell: ExitCode is 127 for a command that is not found, 126 for one that
// cannot be executed, 125 for the rest (no such user, bad working directory).
type CommandError struct {
	Command  string
	ExitCode int
	Err      error
}

func (e *CommandError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }
