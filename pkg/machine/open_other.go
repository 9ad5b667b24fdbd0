//go:build !linux

package machine

import (
	"context"
	"fmt"
	"runtime"

	"github.com/anthropics/boxlite/pkg/hv"
)

// Open returns this host's hypervisor. The caller closes it.
func Open() (hv.Hypervisor, error) {
	return nil, fmt.Errorf("machine: no hypervisor for %s/%s: %w", runtime.GOOS, runtime.GOARCH, hv.ErrUnsupported)
}

// Check returns what Open does.
func Check() error {
	_, err := Open()
	return err
}

// Incapable is Unusable.
func Incapable(ctx context.Context) string { return Unusable(ctx) }

// Unusable says why this host's hypervisor cannot run kernels, and what to do.
func Unusable(context.Context) string {
	_, err := Open()
	return err.Error()
}
