//go:build !linux || !amd64

package kvm

import (
	"context"
	"fmt"
	"runtime"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Open returns an error that wraps [hv.ErrUnsupported].
func Open() (hv.Hypervisor, error) { return Options{}.Open() }

// Open returns an error that wraps [hv.ErrUnsupported].
func (Options) Open() (hv.Hypervisor, error) {
	return nil, fmt.Errorf("kvm: %s/%s: %w", runtime.GOOS, runtime.GOARCH, hv.ErrUnsupported)
}

// Probe returns an error that wraps [hv.ErrUnsupported].
func Probe(context.Context) (Report, error) {
	_, err := Open()
	return Report{}, err
}
