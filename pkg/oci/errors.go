package oci

import (
	"errors"
	"fmt"
	"syscall"
)

// Kinds of failure a caller may want to tell apart with errors.Is. Every
// error of the package also says in words which image, registry or file it is
// about and, where there is one, the remedy.
var (
	// ErrNotFound: no such image in the store, at the registry or in the file.
	ErrNotFound = errors.New("image not found")
	// ErrReference: the reference is not one.
	ErrReference = errors.New("invalid image reference")
	// ErrPlatform: the image exists, but not for the platform asked for.
	ErrPlatform = errors.New("image has no such platform")
	// ErrUnauthorized: the registry wants (other) credentials.
	ErrUnauthorized = errors.New("registry access refused")
	// ErrUnavailable: the registry did not answer, or stopped answering.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrCorrupt: content is not what its digest or size says.
	ErrCorrupt = errors.New("image content is corrupt")
	// ErrUnsupported: well-formed, but nothing a box can run from.
	ErrUnsupported = errors.New("image is not supported")
	// ErrInUse: the image may not be removed, because something runs from it.
	ErrInUse = errors.New("image is in use")
	// ErrAmbiguous: the beginning of a digest that several images have.
	ErrAmbiguous = errors.New("several images match")
	// ErrNoSpace: the store's file system is full.
	ErrNoSpace = errors.New("no space left for images")
)

// kindError gives a message of its own to one of the kinds above, so that the
// kind's text is not repeated in it.
type kindError struct {
	kind  error
	msg   string
	cause error
}

func (e *kindError) Error() string { return e.msg }

func (e *kindError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// fail builds an error of a kind. As with fmt.Errorf, %w makes its operand
// visible to errors.Is and errors.As.
func fail(kind error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &kindError{kind: kind, msg: err.Error(), cause: errors.Unwrap(err)}
}

// isNoSpace tells a full disk or an exhausted quota from other write errors.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
