//go:build !linux

package machine

import "github.com/anthropics/boxlite/pkg/hv"

// eventLine exists where eventfds do.
type eventLine struct{ fd int }

func (l *eventLine) open() error  { return hv.ErrUnsupported }
func (l *eventLine) signal()      {}
func (l *eventLine) close() error { return nil }
