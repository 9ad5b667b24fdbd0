package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// Volumes of a home lie in its folder "volumes":
//
//	NAME/data             what a box sees
//	NAME/half             the same before it is complete
//	.taken-MICROS-NAME    the folder of a volume, made at that time, that is being removed
//	.gone-ULID            the folder of one that was removed, until it is deleted
//
// The state alone says which volumes there are. A folder without a row is left
// alone, and found again by who creates a volume of that name: the state may be lost.
const (
	volumesName = "volumes"
	volumeData  = "data"
	volumeHalf  = "half"
	takenPrefix = ".taken-"
	gonePrefix  = ".gone-"
)

// VolumeOptions describe a volume of the home. The zero value is an anonymous one.
type VolumeOptions struct {
	Name   string // letters, digits, _ . and -, at most 128; empty: 64 hexadecimal digits are made up
	Labels map[string]string
}

// VolumeInfo is what is known of a volume of the home.
type VolumeInfo struct {
	Name       string
	CreatedAt  time.Time
	Mountpoint string // the folder that boxes see
	Labels     map[string]string
	Anonymous  bool     // its name was made up
	Boxes      []string // that name it, running or not: their names, or ids of those without
}

// CreateVolume makes a volume. Where there is one of that name it is returned as it
// is, with the labels that it has.
func (r *Runtime) CreateVolume(ctx context.Context, o VolumeOptions) (VolumeInfo, error) {
	v := state.Volume{Name: o.Name, CreatedAt: time.Now()}
	if v.Name == "" {
		v.Name, v.Anonymous = string(NewContainerID()), true
	} else if err := checkVolumeName(v.Name); err != nil {
		return VolumeInfo{}, err
	}
	if len(o.Labels) > 0 {
		b, err := json.Marshal(o.Labels)
		if err != nil {
			return VolumeInfo{}, wrap(ErrInternal, err, "labels of volume %s", v.Name)
		}
		v.Labels = string(b)
	}
	db, err := r.state(ctx)
	if err != nil {
		return VolumeInfo{}, err
	}
	if _, err := db.AddVolume(ctx, v); err != nil {
		return VolumeInfo{}, wrap(ErrDatabase, err, "create volume %s", v.Name)
	}
	r.reach(stepVolumeAdded)
	if err := r.ensureVolume(ctx, v.Name); err != nil {
		return VolumeInfo{}, wrap(ErrStorage, err, "create volume %s", v.Name)
	}
	return r.GetVolume(ctx, v.Name)
}

func checkVolumeName(name string) error {
	if !validName(name) {
		return fail(ErrInvalidArgument, "volume name %q: use letters, digits, _ . and -, starting with a letter or digit, at most 128", name)
	}
	return nil
}

// Volumes returns all volumes of the home, by name.
func (r *Runtime) Volumes(ctx context.Context) ([]VolumeInfo, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	list, err := db.Volumes(ctx)
	if err != nil {
		return nil, wrap(ErrDatabase, err, "list volumes")
	}
	out := make([]VolumeInfo, 0, len(list))
	for i := range list {
		out = append(out, r.volumeInfo(&list[i]))
	}
	return out, nil
}

// GetVolume returns the volume of that name. None is ErrNotFound.
func (r *Runtime) GetVolume(ctx context.Context, name string) (VolumeInfo, error) {
	db, err := r.state(ctx)
	if err != nil {
		return VolumeInfo{}, err
	}
	v, err := db.FindVolume(ctx, name)
	if err != nil {
		return VolumeInfo{}, volumeError(err, name)
	}
	return r.volumeInfo(&v), nil
}

func volumeError(err error, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, state.ErrNoVolume):
		return fail(ErrNotFound, "there is no volume %q", name)
	}
	if used := (*state.VolumeInUseError)(nil); errors.As(err, &used) {
		them := "that box"
		if len(used.Boxes) > 1 {
			them = "those boxes"
		}
		return fail(ErrInvalidState, "volume %q is in use by %s: remove %s first", name, strings.Join(used.Boxes, ", "), them)
	}
	return wrap(ErrDatabase, err, "volume %s", name)
}

func (r *Runtime) volumeInfo(v *state.Volume) VolumeInfo {
	i := VolumeInfo{
		Name: v.Name, CreatedAt: v.CreatedAt.UTC(), Anonymous: v.Anonymous, Boxes: v.Boxes,
		Mountpoint: filepath.Join(r.volumeDir(v.Name), volumeData),
	}
	if v.Labels != "" {
		// Whatever else wrote the state: labels that cannot be read spoil no list.
		_ = json.Unmarshal([]byte(v.Labels), &i.Labels)
	}
	return i
}

// RemoveVolume deletes a volume and all that is in it. One that a box names, running
// or not, is ErrInvalidState, and the error says which box; none of that name is
// ErrNotFound.
func (r *Runtime) RemoveVolume(ctx context.Context, name string) error {
	if err := r.sweep(ctx); err != nil { // boxes that were killed name it no more
		r.opts.Log.Warn("look for left-over boxes", "error", err)
	}
	return r.removeVolume(ctx, name)
}

func (r *Runtime) removeVolume(ctx context.Context, name string) error {
	db, err := r.state(ctx)
	if err != nil {
		return err
	}
	var away []removed
	err = db.RemoveVolume(ctx, name, func(v state.Volume) error { return r.takeVolumes([]state.Volume{v}, &away) })
	if err != nil {
		return errors.Join(volumeError(err, name), putBack(away))
	}
	r.reach(stepVolumeTaken)
	return r.deleteTaken(away)
}

// VolumePruneOptions say which volumes [Runtime.PruneVolumes] removes of those that
// no box names. The zero value removes anonymous ones.
type VolumePruneOptions struct {
	All bool // those with names of their own, too
	// Match, if set, chooses among them.
	Match func(VolumeInfo) bool
}

// VolumePruneReport is what PruneVolumes removed.
type VolumePruneReport struct {
	Volumes []VolumeInfo
	Freed   int64 // bytes on disk
}

// PruneVolumes removes volumes that no box names. What was removed before an error is
// in the report.
func (r *Runtime) PruneVolumes(ctx context.Context, o VolumePruneOptions) (VolumePruneReport, error) {
	var rep VolumePruneReport
	if err := r.sweep(ctx); err != nil {
		return rep, err
	}
	list, err := r.Volumes(ctx)
	if err != nil {
		return rep, err
	}
	for _, v := range list {
		if len(v.Boxes) > 0 || !v.Anonymous && !o.All || o.Match != nil && !o.Match(v) {
			continue
		}
		size := treeSize(r.volumeDir(v.Name))
		switch err := r.removeVolume(ctx, v.Name); {
		case errors.Is(err, ErrInvalidState), errors.Is(err, ErrNotFound): // meanwhile
		case err != nil:
			return rep, err
		default:
			rep.Volumes, rep.Freed = append(rep.Volumes, v), rep.Freed+size
		}
	}
	return rep, nil
}

func (r *Runtime) volumeDir(name string) string {
	return filepath.Join(r.opts.HomeDir, volumesName, name)
}

// ensureVolume makes a volume's folder unless it is there. The data folder appears
// complete or not at all: its mode is what a box's other users need to enter it. And it
// is made once only: one that takes the place of another would take it from a box
// that has that open.
func (r *Runtime) ensureVolume(ctx context.Context, name string) error {
	dir := r.volumeDir(name)
	data := filepath.Join(dir, volumeData)
	if isDir(data) {
		return nil
	}
	if err := r.clearRemoved(ctx); err != nil { // it may be out of the way only
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	lock, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if isDir(data) { // somebody else was first
		return nil
	}
	half := filepath.Join(dir, volumeHalf)
	if err := os.Mkdir(half, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // left by one who was killed
		return err
	}
	if err := os.Chmod(half, 0o755); err != nil {
		return err
	}
	return os.Rename(half, data)
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// removed is a volume's folder that was moved out of the way.
type removed struct{ from, to string }

// takeVolumes moves the folders of volumes out of the way. It is called in the
// transaction that removes them: a volume made afterwards under the same name has
// nothing of the old one.
func (r *Runtime) takeVolumes(list []state.Volume, away *[]removed) error {
	for _, v := range list {
		m := removed{r.volumeDir(v.Name), r.volumeDir(fmt.Sprintf("%s%d-%s", takenPrefix, v.CreatedAt.UnixMicro(), v.Name))}
		if err := os.Rename(m.from, m.to); errors.Is(err, fs.ErrNotExist) {
			continue // it was never used
		} else if err != nil {
			return err
		}
		*away = append(*away, m)
	}
	return nil
}

// putBack undoes takeVolumes when the volumes could not be removed after all.
func putBack(away []removed) error {
	var errs []error
	for _, m := range away {
		errs = append(errs, os.Rename(m.to, m.from))
	}
	return errors.Join(errs...)
}

// deleteTaken deletes what takeVolumes has moved, after its transaction.
func (r *Runtime) deleteTaken(away []removed) error {
	var errs []error
	for _, m := range away {
		gone := r.volumeDir(gonePrefix + string(NewBoxID()))
		err := os.Rename(m.to, gone)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody who looked for left-overs was first
		} else if err == nil {
			err = removeTree(gone)
		}
		errs = append(errs, wrap(ErrStorage, err, "delete the content of volume %s", filepath.Base(m.from)))
	}
	return errors.Join(errs...)
}

// clearRemoved finishes removals that whoever began them did not live to finish:
// content whose volume is still there goes back, all other is deleted. What cannot be
// deleted is only logged.
func (r *Runtime) clearRemoved(ctx context.Context) error {
	dir := filepath.Join(r.opts.HomeDir, volumesName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return wrap(ErrStorage, err, "look for removed volumes")
	}
	var taken, gone []string
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, takenPrefix):
			taken = append(taken, name)
		case strings.HasPrefix(name, gonePrefix):
			gone = append(gone, filepath.Join(dir, name))
		}
	}
	var errs []error
	if len(taken) > 0 {
		db, err := r.state(ctx)
		if err != nil {
			return err
		}
		err = db.Judge(ctx, func(exists func(string, time.Time) (bool, error)) error {
			for _, t := range taken {
				micros, name, _ := strings.Cut(strings.TrimPrefix(t, takenPrefix), "-")
				at, err := strconv.ParseInt(micros, 10, 64)
				if err != nil {
					continue // none of ours
				}
				there, err := exists(name, time.UnixMicro(at))
				if err != nil {
					return err
				}
				if there {
					err = os.Rename(filepath.Join(dir, t), r.volumeDir(name))
					there = err == nil // or it has new content by now, and this was to go
				}
				if !there {
					to := r.volumeDir(gonePrefix + string(NewBoxID()))
					if err = os.Rename(filepath.Join(dir, t), to); err == nil {
						gone = append(gone, to)
					}
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, wrap(ErrStorage, err, "removed volume %s", name))
				}
			}
			return nil
		})
		errs = append(errs, wrap(ErrDatabase, err, "look for removed volumes"))
	}
	for _, g := range gone {
		// It is in nobody's way: the next one who looks tries again.
		if err := removeTree(g); err != nil {
			r.opts.Log.Warn("delete what a removed volume left", "folder", g, "error", err)
		}
	}
	return errors.Join(errs...)
}
