package agent

import (
	"errors"
	"strconv"
	"syscall"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

func itoa(v int) string { return strconv.Itoa(v) }

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

// asError makes any error into one for the wire.
func asError(op string, err error) *agentapi.Error {
	var e *agentapi.Error
	if errors.As(err, &e) {
		return e
	}
	return &agentapi.Error{Code: agentapi.CodeSystem, Errno: uint32(errnoOf(err)), Op: op, Msg: err.Error()}
}

// fail builds a typed error from a cause.
func fail(code agentapi.Code, op, what string, cause error) *agentapi.Error {
	e := &agentapi.Error{Code: code, Op: op, Msg: what}
	if cause != nil {
		e.Errno = uint32(errnoOf(cause))
		e.Msg += ": " + cause.Error()
	}
	return e
}
