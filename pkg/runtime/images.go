package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// RemoveImage takes an image, named by reference, digest or the beginning of a
// digest, out of the home's store, and frees what no other image needs. One that
// a box is made from is ErrInvalidState and stays, unless force takes its name
// away: its files then go with the last of those boxes. An image that is not
// there is ErrNotFound.
func (r *Runtime) RemoveImage(ctx context.Context, key string, force bool) (oci.Removed, error) {
	store, err := r.Images()
	if err != nil {
		return oci.Removed{}, err
	}
	if err := r.sweep(ctx); err != nil { // boxes of dead processes use nothing
		return oci.Removed{}, err
	}
	removed, err := store.Remove(ctx, key, oci.RemoveOptions{Force: force, Uses: r.imageUses})
	return removed, imageError(err)
}

// imageError gives an error of the store its kind.
func imageError(err error) error {
	kind := ErrImage
	switch {
	case err == nil:
		return nil
	case errors.Is(err, oci.ErrNotFound):
		kind = ErrNotFound
	case errors.Is(err, oci.ErrInUse):
		kind = ErrInvalidState
	case errors.Is(err, oci.ErrAmbiguous), errors.Is(err, oci.ErrReference):
		kind = ErrInvalidArgument
	case errors.Is(err, oci.ErrNoSpace):
		kind = ErrStorage
	case errors.Is(err, oci.ErrUnavailable):
		kind = ErrNetwork
	case errors.Is(err, oci.ErrUnsupported), errors.Is(err, oci.ErrPlatform):
		kind = ErrUnsupported
	}
	return wrap(kind, err, "")
}

// imageUses lists what the home's boxes need of the image store. Rows come
// before what is written under oci.Store.Hold, so no box is missed.
func (r *Runtime) imageUses(ctx context.Context) ([]oci.Use, error) {
	db, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := db.List(ctx)
	if err != nil {
		return nil, wrap(ErrDatabase, err, "list boxes")
	}
	var uses []oci.Use
	for _, row := range rows {
		b, err := r.open(row)
		if err != nil {
			return nil, err
		}
		u := oci.Use{By: "box " + b.String()}
		rec, err := readRecord(r.boxDir(BoxID(row.ID)))
		switch {
		case err == nil:
			u.Image = oci.Digest(rec.Digest)
			for _, p := range rec.Parts {
				u.Paths = append(u.Paths, p.Path)
			}
		case errors.Is(err, os.ErrNotExist): // not started yet
			if u.Reference, err = b.opts.Rootfs.reference(); err != nil {
				continue // a folder that is gone: nothing of the store is meant
			}
		default: // what it uses cannot be told, so nothing may go
			return nil, wrap(ErrMetadata, err, "image of box %s", b)
		}
		uses = append(uses, u)
	}
	return uses, nil
}

// releaseImages removes images that only a box that is gone by now had kept.
func (r *Runtime) releaseImages(ctx context.Context) {
	if !oci.HasOrphans(filepath.Join(r.opts.HomeDir, "images")) {
		return // the usual case costs one stat
	}
	store, err := r.Images()
	if err == nil {
		_, err = store.Collect(ctx, r.imageUses)
	}
	if err != nil {
		r.opts.Log.Warn("remove images that the last box is gone of", "error", err)
	}
}

// pullImage brings the box's image into the store. rec, if not nil, says which
// it was when the box was first started: what its tag has come to mean since
// does not matter.
func (b *LiteBox) pullImage(ctx context.Context, store *oci.Store, rec *bootRecord) error {
	ref, err := b.opts.Rootfs.reference()
	if err != nil {
		return err
	}
	_, err = store.Pull(ctx, ref, oci.PullOptions{Progress: b.rt.opts.Progress, Digest: rec.digest()})
	if err != nil && rec != nil {
		return wrap(ErrImage, err, "box %s was made from image %s, whose files are not there any more, nor to be had again: load that image, or remove the box", b, rec.Digest)
	}
	return wrap(ErrImage, err, "")
}

// recordImage finds the box's image in the store, pulling it if need be, and
// notes in the box's folder what it boots from: from then on the image is in
// use. rec is as for pullImage.
func (b *LiteBox) recordImage(ctx context.Context, rec *bootRecord) (*bootRecord, error) {
	store, err := b.rt.Images()
	if err != nil {
		return nil, err
	}
	// An image may be removed between its pull and the note, again and again
	// in theory.
	for range 8 {
		fresh, err := b.noteImage(ctx, store, rec.digest())
		if err == nil || !errors.Is(err, oci.ErrNotFound) {
			return fresh, err
		}
		if err := b.pullImage(ctx, store, rec); err != nil {
			return nil, err
		}
	}
	return nil, fail(ErrImage, "image of box %s: it is removed as often as it is pulled", b)
}

// noteImage is recordImage for an image that is in the store.
func (b *LiteBox) noteImage(ctx context.Context, store *oci.Store, want oci.Digest) (*bootRecord, error) {
	ref, err := b.opts.Rootfs.reference()
	if err != nil {
		return nil, err
	}
	release, err := store.Hold(ctx)
	if err != nil {
		return nil, wrap(ErrStorage, err, "image store")
	}
	defer release()
	img, err := store.Pull(ctx, ref, oci.PullOptions{Policy: oci.PullNever, Digest: want})
	if err != nil {
		return nil, wrap(ErrImage, err, "image of box %s", b)
	}
	root, err := store.Rootfs(ctx, img, nil)
	if err != nil {
		return nil, wrap(ErrImage, err, "root filesystem of %s", img.Reference)
	}
	rec := &bootRecord{Digest: string(img.Digest), Config: img.Config}
	for _, p := range root.Parts {
		rec.Parts = append(rec.Parts, vmm.Part{Path: p.Path, Offset: p.Offset, Length: p.Length})
	}
	if err := rec.write(b.dir()); err != nil {
		return nil, wrap(ErrStorage, err, "record the image of box %s", b)
	}
	return rec, nil
}

// digest is empty of a record that is not there.
func (rec *bootRecord) digest() oci.Digest {
	if rec == nil {
		return ""
	}
	return oci.Digest(rec.Digest)
}
