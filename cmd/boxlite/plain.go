package main

import (
	"errors"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// plainError is an error of a package in the words of this program's users, who know
// of no packages: it begins with what was asked for instead.
type plainError struct {
	what string
	err  error
}

// plain makes an error one of a command, or of a thing that it was about.
func plain(what string, err error) error {
	if err == nil {
		return nil
	}
	return &plainError{what, err}
}

func (e *plainError) Error() string { return e.what + ": " + withoutPackage(e.err) }

func (e *plainError) Unwrap() error { return e.err }

// lists say where to look for a thing that is not there.
var lists = map[string]string{"no box has the id or name ": "boxlite ls -a lists them", "there is no volume ": "boxlite volume ls lists them"}

// withRemedy is the text of an error with what to do about it, where only this program
// knows.
func withRemedy(err error) string {
	text := withoutPackage(err)
	if errors.Is(err, runtime.ErrNotFound) {
		for beginning, help := range lists {
			if strings.HasPrefix(text, beginning) && !strings.Contains(text, "\n") {
				return text + ": " + help
			}
		}
	}
	return text
}

// withoutPackage is the text of an error without the package's name, and without what
// that calls a whole load or save, which the command does already.
func withoutPackage(err error) string {
	text := err.Error()
	rest, ok := strings.CutPrefix(text, "oci: ")
	if !ok {
		return text
	}
	for _, doing := range []string{"loading images: ", "saving images: "} {
		rest = strings.TrimPrefix(rest, doing)
	}
	return rest
}
