package runtime

import (
	"context"
	"os"
	"path/filepath"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// hostName is a file of the home that names the host's boot in which the
// hypervisor was found fit to try.
const hostName = "host-checked"

// checkHost says why this host cannot run boxes, before anything is pulled or
// booted in vain. What its hypervisor can run is looked at once a boot of the host,
// for a tenth of a second.
func (r *Runtime) checkHost(ctx context.Context) error {
	if err := machine.Check(); err != nil {
		return err
	}
	path, boot := filepath.Join(r.opts.HomeDir, hostName), state.BootID()
	if seen, err := os.ReadFile(path); err == nil && boot != "" && string(seen) == boot {
		return nil
	}
	if why := machine.Incapable(ctx); why != "" {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &hostError{why}
	}
	if err := os.WriteFile(path, []byte(boot), 0o600); err != nil {
		r.opts.Log.Warn("note that the host was checked", "error", err)
	}
	return nil
}

// hostError is the reason that a probe of the host found.
type hostError struct{ why string }

func (e *hostError) Error() string { return e.why }
