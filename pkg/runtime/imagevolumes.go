package runtime

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// withImageVolumes are the box's options with a volume for each place where its image
// keeps data (VOLUME of a Dockerfile): an anonymous one, as if the box had been made
// with it, unless something is mounted there. The row has them from the first start on,
// which is when the image is known; handles that are older do not.
func (b *LiteBox) withImageVolumes(ctx context.Context, img imageConfig) (BoxOptions, error) {
	opts := b.opts
	if len(img.Volumes) == 0 {
		return opts, nil
	}
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return opts, err
	}
	var stored storedOptions
	if err := json.Unmarshal(row.Options, &stored); err != nil {
		return opts, wrap(ErrMetadata, err, "options of box %s", b)
	}
	opts.Volumes = stored.Volumes
	more := b.imageVolumes(&opts, img.Volumes)
	if len(more) == 0 {
		return opts, nil
	}
	opts.Volumes = slices.Concat(opts.Volumes, more)
	stored.Volumes = opts.Volumes
	options, err := stored.marshal()
	if err != nil {
		return opts, err
	}
	db, err := b.rt.state(ctx)
	if err != nil {
		return opts, err
	}
	_, err = db.AddVolumes(ctx, string(b.id), func(row *state.Box) error { // whoever starts a box has its lock
		row.Options, row.Volumes = options, (&BoxOptions{Volumes: more}).namedVolumes(time.Now())
		return nil
	})
	return opts, wrap(ErrDatabase, err, "volumes of the image of box %s", b)
}

// imageVolumes are the volumes that are missing for these paths of the image. Where
// there can be none the data lies on the box's disk, which is told.
func (b *LiteBox) imageVolumes(o *BoxOptions, paths []string) (list []VolumeSpec) {
	taken := map[string]bool{}
	for _, v := range o.Volumes {
		taken[v.GuestPath] = true
	}
	for _, t := range o.Tmpfs {
		taken[t.GuestPath] = true
	}
	for _, p := range paths {
		at, err := cleanGuestPath(p)
		if err == nil && taken[at] {
			continue
		}
		v := VolumeSpec{Name: string(NewContainerID()), GuestPath: at, Anonymous: true}
		if err == nil {
			err = v.checkKept(b.rt.HomeDir())
		}
		if err == nil && len(o.Volumes)+len(list) >= MaxVolumes {
			err = fail(ErrInvalidArgument, "the box has %d volumes already", MaxVolumes)
		}
		if err != nil {
			b.rt.opts.Log.Warn("no volume for a place where the image wants one", "box", b.id, "path", p, "error", err)
			continue
		}
		taken[at] = true
		list = append(list, v)
	}
	return list
}
