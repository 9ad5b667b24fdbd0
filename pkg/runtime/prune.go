package runtime

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/assets"
)

// PruneOptions say what [Runtime.Prune] removes. The zero value removes what
// nobody can miss: images that no name leads to, given-up downloads, and kernels
// of other versions.
type PruneOptions struct {
	Boxes     bool // all stopped boxes, with their disks
	AllImages bool // all images that no box is made from
	Volumes   bool // anonymous volumes that no box names
}

// PruneReport is what Prune removed.
type PruneReport struct {
	Boxes   []BoxInfo
	Volumes []VolumeInfo
	Images  oci.Removed
	Freed   int64 // bytes on disk, of everything
}

// Prune removes what is not in use. What was removed before an error is in the
// report.
func (r *Runtime) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	var rep PruneReport
	if err := r.sweep(ctx); err != nil {
		return rep, err
	}
	if o.Boxes {
		if err := r.pruneBoxes(ctx, &rep); err != nil {
			return rep, err
		}
	}
	if o.Volumes { // after the boxes that named them
		gone, err := r.PruneVolumes(ctx, VolumePruneOptions{})
		rep.Volumes, rep.Freed = gone.Volumes, rep.Freed+gone.Freed
		if err != nil {
			return rep, err
		}
	}
	store, err := r.Images()
	if err != nil {
		return rep, err
	}
	rep.Images, err = store.Prune(ctx, oci.PruneOptions{All: o.AllImages, Uses: r.imageUses})
	rep.Freed += rep.Images.Freed
	if err != nil {
		return rep, imageError(err)
	}
	freed, err := assets.Prune(r.opts.HomeDir)
	rep.Freed += freed
	return rep, wrap(ErrStorage, err, "remove unused kernels")
}

func (r *Runtime) pruneBoxes(ctx context.Context, rep *PruneReport) error {
	boxes, err := r.ListInfo(ctx)
	if err != nil {
		return err
	}
	for _, b := range boxes {
		if !b.Status.IsStopped() {
			continue
		}
		_, _, size := r.boxUsage(string(b.ID))
		err := r.Remove(ctx, string(b.ID), false)
		if errors.Is(err, ErrInvalidState) || errors.Is(err, ErrNotFound) {
			continue // started, or removed, meanwhile
		} else if err != nil {
			return err
		}
		rep.Boxes = append(rep.Boxes, b)
		rep.Freed += size
	}
	return nil
}

// DiskUsage is what a home directory takes up, in bytes on disk: sparse files
// count with what is stored of them.
type DiskUsage struct {
	Images  oci.Usage
	Boxes   []BoxUsage    // newest first
	Volumes []VolumeUsage // by name
	// Kernels are guest kernels and initramfs unpacked or installed in the
	// home, and what of them this program does not use.
	Kernels, UnusedKernels int64
	// KernelCount is how many kernels those are, and UnusedKernelCount how many
	// of them this program does not use.
	KernelCount, UnusedKernelCount int
}

// BoxUsage is a box's part of it.
type BoxUsage struct {
	Info BoxInfo
	Disk int64 // the writable disk
	Logs int64 // console and reports
}

// VolumeUsage is a volume's part of it.
type VolumeUsage struct {
	Info VolumeInfo
	Size int64
}

// DiskUsage finds out what takes up how much.
func (r *Runtime) DiskUsage(ctx context.Context) (DiskUsage, error) {
	var u DiskUsage
	boxes, err := r.ListInfo(ctx)
	if err != nil {
		return u, err
	}
	for _, b := range boxes {
		disk, logs, _ := r.boxUsage(string(b.ID))
		u.Boxes = append(u.Boxes, BoxUsage{Info: b, Disk: disk, Logs: logs})
	}
	volumes, err := r.Volumes(ctx)
	if err != nil {
		return u, err
	}
	for _, v := range volumes {
		u.Volumes = append(u.Volumes, VolumeUsage{Info: v, Size: treeSize(r.volumeDir(v.Name))})
	}
	store, err := r.Images()
	if err != nil {
		return u, err
	}
	if u.Images, err = store.DiskUsage(ctx, r.imageUses); err != nil {
		return u, imageError(err)
	}
	u.KernelCount, u.UnusedKernelCount = assets.Count(r.opts.HomeDir)
	u.Kernels, u.UnusedKernels, err = assets.Usage(r.opts.HomeDir)
	return u, wrap(ErrStorage, err, "sizes of kernels")
}

// boxUsage is what the files of a box take up. Those that vanish while they are
// looked at take up nothing.
func (r *Runtime) boxUsage(id string) (disk, logs, all int64) {
	dir := r.boxDir(BoxID(id))
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		n := onDisk(info)
		all += n
		switch {
		case path == filepath.Join(dir, diskName):
			disk += n
		case info.Mode().IsRegular():
			logs += n
		}
		return nil
	})
	return disk, logs, all
}

// treeSize is what all files of a tree take up.
func treeSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += onDisk(info)
		}
		return nil
	})
	return n
}

// onDisk is what a file really takes up, which for a sparse one is not its size.
func onDisk(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return info.Size()
}
