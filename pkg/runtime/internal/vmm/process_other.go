//go:build !linux

package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/anthropics/boxlite/pkg/hv"
)

// There is no backend for other systems yet, so nothing here can be started.

func unsupported() error {
	return fmt.Errorf("vmm: boxes need a hypervisor backend, and there is none for %s: %w", runtime.GOOS, hv.ErrUnsupported)
}

// Process is a VMM process that this process started.
type Process struct {
	PID   int
	Start uint64
}

// Spawn starts a VMM process.
func Spawn(string, Config) (*Process, error) { return nil, unsupported() }

// WaitBuilt returns when the process answers requests.
func (p *Process) WaitBuilt(context.Context) ([]Event, error) { return nil, unsupported() }

// WaitReady returns when the guest's agent answers.
func (p *Process) WaitReady(context.Context) ([]Event, error) { return nil, unsupported() }

// WaitMain returns when the main command runs.
func (p *Process) WaitMain(context.Context) ([]Event, error) { return nil, unsupported() }

// Events returns what the process reported so far.
func (p *Process) Events() []Event { return nil }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return nil }

// Report says how the VM ended.
func (p *Process) Report() *Report { return nil }

// Stop ends a VMM process in order.
func Stop(context.Context, string, int, uint64, time.Duration, time.Duration, func()) error {
	return unsupported()
}

// Kill ends a VMM process at once.
func Kill(context.Context, int, uint64) error { return unsupported() }

// Wait returns when a VMM process is gone.
func Wait(context.Context, int, uint64) error { return unsupported() }

// StartTime returns when a process started; 0 means that there is none.
func StartTime(int) uint64 { return 0 }

// Alive reports whether the process of this identity runs.
func Alive(int, uint64) bool { return false }

// ReadUsage fails: this system has no VMM processes.
func ReadUsage(int, uint64) (Usage, error) { return Usage{}, unsupported() }

// Now reads a clock that all processes of a host share, in nanoseconds.
func Now() int64 { return time.Now().UnixNano() }

func childMain() int {
	fmt.Fprintln(os.Stderr, "boxlite-vmm:", unsupported())
	return 125
}

func dialUnix(ctx context.Context, path string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}
