package runtime

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// namedVolumes are the volumes of the home that the box names.
func (o *BoxOptions) namedVolumes(now time.Time) (list []state.Volume) {
	for _, v := range o.Volumes {
		if v.Name != "" {
			list = append(list, state.Volume{Name: v.Name, CreatedAt: now, Anonymous: v.Anonymous})
		}
	}
	return list
}

// MountType says what a [Mount] shows.
type MountType string

// Types of mounts, in docker's words.
const (
	MountBind   MountType = "bind"   // a folder or file of the host
	MountVolume MountType = "volume" // a volume of the home
	MountTmpfs  MountType = "tmpfs"
)

// Mount is what a box has at a path beside its own disk.
type Mount struct {
	Type        MountType
	Name        string `json:",omitempty"` // of a volume
	Source      string // path on the host, empty for a tmpfs
	Destination string // path in the box
	RW          bool   // the box may write to it
}

// mountsOf are the mounts that options ask for.
func (r *Runtime) mountsOf(o *BoxOptions) []Mount {
	var list []Mount
	for _, v := range o.Volumes {
		m := Mount{Type: MountBind, Source: filepath.Clean(v.HostPath), Destination: v.GuestPath, RW: !v.ReadOnly}
		if v.Name != "" {
			m.Type, m.Name, m.Source = MountVolume, v.Name, filepath.Join(r.volumeDir(v.Name), volumeData)
		}
		list = append(list, m)
	}
	for _, t := range o.Tmpfs {
		list = append(list, Mount{Type: MountTmpfs, Destination: t.GuestPath, RW: !t.ReadOnly})
	}
	slices.SortStableFunc(list, func(a, b Mount) int { return cmp.Compare(a.Destination, b.Destination) })
	return list
}

// vmmMounts are the box's volumes and tmpfs mounts as the VM process takes them, in
// the order in which they are mounted: a folder before what lies in it.
func (b *LiteBox) vmmMounts(ctx context.Context) ([]vmm.Mount, error) {
	var list []vmm.Mount
	for i := range b.opts.Volumes {
		v := &b.opts.Volumes[i]
		share := &vmm.Share{Path: v.HostPath, KeepOwners: v.Owners == OwnersKept, SharedLocks: v.SharedLocks}
		if v.Name == "" {
			if err := v.checkHost(); err != nil {
				return nil, wrap(ErrInvalidArgument, err, "start box %s", b)
			}
		} else {
			if err := b.rt.ensureVolume(ctx, v.Name); err != nil {
				return nil, wrap(ErrStorage, err, "start box %s: volume %s", b, v.Name)
			}
			share.Path, share.KeepOwners = filepath.Join(b.rt.volumeDir(v.Name), volumeData), v.Owners != OwnersMapped
		}
		if share.KeepOwners {
			if err := v.checkKept(share.Path); err != nil {
				return nil, wrap(ErrUnsupported, err, "start box %s", b)
			}
		}
		share.Populate = v.Name != "" && !v.NoCopy && !v.ReadOnly
		list = append(list, vmm.Mount{Point: agentapi.MountPoint{Path: v.GuestPath, ReadOnly: v.ReadOnly}, Share: share})
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
