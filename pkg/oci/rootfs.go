package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/anthropics/boxlite/pkg/oci/erofs"
)

// Rootfs returns the files that make up an image's root file system: a merged
// index and the blobs of the layers, which one after the other are one EROFS
// image. The index is made if it is not there; progress, which
// may be nil, is told. An image whose layers are gone is ErrNotFound: pull it
// again.
func (s *Store) Rootfs(ctx context.Context, img Image, progress func(Event)) (Rootfs, error) {
	if len(img.Layers) == 0 {
		return Rootfs{}, fail(ErrUnsupported, "oci: %s has no layers, so there is nothing to run", img.Reference)
	}
	parts, err := s.layerParts(img)
	if err != nil {
		return Rootfs{}, fmt.Errorf("oci: root file system of %s: %w", img.Reference, err)
	}
	index := s.indexPath(img)
	st, err := os.Stat(index)
	if errors.Is(err, fs.ErrNotExist) {
		ev := newEvents(progress, img.Reference)
		ev.send("", Extracting, 0, 0)
		if err := s.buildIndex(ctx, img, index, parts); err != nil {
			return Rootfs{}, fmt.Errorf("oci: root file system of %s: %w", img.Reference, err)
		}
		ev.send("", Done, 0, 0)
		st, err = os.Stat(index)
	}
	if err != nil {
		return Rootfs{}, fmt.Errorf("oci: root file system of %s: %w", img.Reference, err)
	}
	return Rootfs{Parts: append([]Part{{Path: index, Length: st.Size()}}, parts...)}, nil
}

// indexPath depends on nothing but the layers and their order, so that images
// that differ in their configs alone share the index.
func (s *Store) indexPath(img Image) string {
	var b strings.Builder
	for _, l := range img.Layers {
		b.WriteString(string(l.DiffID) + "\n")
	}
	return s.path(rootfsDir, digestOf([]byte(b.String())).Hex()+".v1.erofs")
}

// layerParts lists the blobs as the index expects them: in the order of the
// layers, each once, without those that have no data (erofs.Merge).
func (s *Store) layerParts(img Image) ([]Part, error) {
	var parts []Part
	seen := map[Digest]bool{}
	for _, l := range img.Layers {
		if _, err := ParseDigest(string(l.DiffID)); err != nil {
			return nil, err // Image is plain data: anyone may have made it
		}
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		if _, ok := s.haveLayer(l.DiffID); !ok {
			return nil, fail(ErrNotFound, "layer %s is not in the image store; pull the image again", l.DiffID)
		}
		st, err := os.Stat(s.layerBlob(l.DiffID))
		if err != nil {
			return nil, err
		}
		if st.Size() > 0 {
			parts = append(parts, Part{Path: s.layerBlob(l.DiffID), Length: st.Size()})
		}
	}
	return parts, nil
}

// buildIndex merges the layers. Of several processes that want the same index
// one makes it.
func (s *Store) buildIndex(ctx context.Context, img Image, index string, parts []Part) error {
	lock, err := lockWait(ctx, s.partialPath(digestOf([]byte(index))), func() {})
	if err != nil {
		return s.diskError(err, 0)
	}
	defer lock.Close()
	defer os.Remove(lock.Name())
	if _, err := os.Stat(index); err == nil {
		return nil
	}
	var sources []erofs.LayerSource
	for _, l := range img.Layers {
		f, err := os.Open(s.layerMeta(l.DiffID))
		if err != nil {
			return err
		}
		defer f.Close()
		sources = append(sources, erofs.LayerSource{Meta: f})
	}
	tmp, err := s.newTemp()
	if err != nil {
		return s.diskError(err, 0)
	}
	defer dropTemp(tmp)
	info, err := erofs.Merge(ctx, tmp, sources, erofs.MergeOptions{})
	switch {
	case err == nil:
	case isNoSpace(err):
		return s.diskError(err, info.IndexSize)
	case errors.Is(err, erofs.ErrFormat), errors.Is(err, erofs.ErrLimit):
		return fail(ErrUnsupported, "%w", err)
	default:
		return err
	}
	if err := sameParts(info.Parts, parts); err != nil {
		return err
	}
	return s.diskError(publish(tmp, index), info.IndexSize)
}

// sameParts makes sure that the index was made for the very files that will
// be shown behind it.
func sameParts(want []erofs.Part, have []Part) error {
	ok := len(want) == len(have)
	for i := 0; ok && i < len(want); i++ {
		ok = want[i].Size == have[i].Length && strings.Contains(have[i].Path, want[i].DiffID)
	}
	if !ok {
		return fail(ErrCorrupt, "the layers in the store are not those the index was made for")
	}
	return nil
}
