package machine

import (
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/kvm"
)

// Open returns this host's hypervisor. The caller closes it.
func Open() (hv.Hypervisor, error) { return kvm.Open() }
