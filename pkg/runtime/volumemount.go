package runtime

import (
	"cmp"
	"slices"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// vmmMounts are the box's volumes and tmpfs mounts as the VM process takes them, in
// the order in which they are mounted: a folder before what lies in it.
func (b *LiteBox) vmmMounts() ([]vmm.Mount, error) {
	var list []vmm.Mount
	for i := range b.opts.Volumes {
		v := &b.opts.Volumes[i]
		if err := v.checkHost(); err != nil {
			return nil, wrap(ErrInvalidArgument, err, "start box %s", b)
		}
		list = append(list, vmm.Mount{
			Point: agentapi.MountPoint{Path: v.GuestPath, ReadOnly: v.ReadOnly},
			Share: &vmm.Share{Path: v.HostPath, KeepOwners: v.Owners == OwnersKept, SharedLocks: v.SharedLocks},
		})
	}
	for _, t := range b.opts.Tmpfs {
		list = append(list, vmm.Mount{Point: agentapi.MountPoint{
			Kind: agentapi.MountTmpfs, Path: t.GuestPath, ReadOnly: t.ReadOnly, NoExec: !t.Exec,
			Size: uint64(t.SizeBytes), Mode: t.Mode,
		}})
	}
	slices.SortStableFunc(list, func(a, b vmm.Mount) int { return cmp.Compare(a.Point.Path, b.Point.Path) })
	return list, nil
}
