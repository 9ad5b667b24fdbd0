package machine

import (
	"context"

	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/kvm"
)

// Open returns this host's hypervisor. The caller closes it.
func Open() (hv.Hypervisor, error) { return kvm.Open() }

// Check says cheaply whether this host has a hypervisor that may be used; whether
// it can run kernels is what [Unusable] finds out.
func Check() error {
	h, err := Open()
	if err != nil {
		return err
	}
	return h.Close()
}

// Unusable says why this host's hypervisor cannot run kernels, and what to do;
// empty if it can. It runs tiny guests, for a tenth of a second.
func Unusable(ctx context.Context) string {
	r, err := kvm.Probe(ctx)
	if err != nil {
		return err.Error()
	}
	return r.Remedy
}
