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

// Incapable says why this host cannot run kernels, before one is tried; empty where
// that is for a boot to find out, as with the hypervisors that use the CPU's own
// virtualization.
func Incapable(ctx context.Context) string {
	r, err := kvm.Probe(ctx)
	if err != nil {
		return err.Error()
	}
	if r.Module == "kvm_intel" || r.Module == "kvm_amd" {
		return ""
	}
	return r.Remedy
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
