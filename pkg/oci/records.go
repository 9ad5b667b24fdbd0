package oci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
)

// record is a reference's file in refs/.
type record struct {
	Version int `json:"version"`
	// Stamp identifies the state of the file or folder an image was
	// imported from; empty for registries.
	Stamp string `json:"stamp,omitempty"`
	Image Image  `json:"image"`
}

const (
	recordVersion = 1
	maxRecord     = maxConfig + maxManifest
)

// refPath names a reference's file by hash: no character of a reference ever
// becomes part of a path.
func (s *Store) refPath(reference string, p Platform) string {
	return s.path(refsDir, digestOf([]byte(reference+"\n"+p.normal().String())).Hex()+".json")
}

// lookup returns the image recorded for t, if it is complete and, where it was
// imported from files, those still have the same stamp.
func (s *Store) lookup(t target, p Platform, stamp string) (Image, bool) {
	r, err := s.readRecord(s.refPath(t.String(), p))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("image store: unusable record", "reference", t.String(), "err", err)
		}
		return Image{}, false
	}
	return r.Image, r.Stamp == stamp && r.Image.Reference == t.String()
}

// readRecord reads and checks one file of refs/. An error means that the image
// has to be pulled again; nothing else depends on the file.
func (s *Store) readRecord(path string) (record, error) {
	b, err := readLimited(path, maxRecord)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("oci: record %s: %w", path, err)
	}
	if r.Version != recordVersion || len(r.Image.Layers) == 0 || len(r.Image.Layers) > maxLayers {
		return record{}, fmt.Errorf("oci: record %s: version %d with %d layers", path, r.Version, len(r.Image.Layers))
	}
	for _, l := range r.Image.Layers {
		if l.DiffID == "" {
			return record{}, fmt.Errorf("oci: record %s: layer without digest", path)
		}
		if n, ok := s.haveLayer(l.DiffID); !ok || n != l.Stored {
			return record{}, fmt.Errorf("oci: record %s: layer %s is missing: %w", path, l.DiffID, fs.ErrNotExist)
		}
	}
	return r, nil
}

func (s *Store) writeRecord(img Image, want Platform, stamp string) error {
	b, err := json.Marshal(record{Version: recordVersion, Stamp: stamp, Image: img})
	if err != nil {
		return err
	}
	return s.writeFile(s.refPath(img.Reference, want), b)
}

// Images yields the complete images of the store, sorted by reference. An
// image pulled for several platforms, or by several names, is yielded for each.
func (s *Store) Images(ctx context.Context) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		images, err := s.images(ctx)
		if err != nil {
			yield(Image{}, fmt.Errorf("oci: listing images: %w", err))
			return
		}
		for _, img := range images {
			if !yield(img, nil) {
				return
			}
		}
	}
}

func (s *Store) images(ctx context.Context) ([]Image, error) {
	entries, err := os.ReadDir(s.path(refsDir))
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		r, err := s.readRecord(s.path(refsDir, e.Name()))
		if err != nil {
			s.log.Warn("image store: record skipped", "err", err)
			continue
		}
		images = append(images, r.Image)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Platform.String(), b.Platform.String()))
	})
	return images, nil
}

// Remove forgets a reference, for all platforms it was pulled for. The layers
// stay, because other references may share them.
func (s *Store) Remove(ctx context.Context, ref string) error {
	targets, err := s.parse(ref)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path(refsDir))
	if err != nil {
		return fmt.Errorf("oci: removing %s: %w", clip(ref), err)
	}
	for _, t := range targets {
		reference, found := t.String(), false
		for _, e := range entries {
			path := s.path(refsDir, e.Name())
			b, err := readLimited(path, maxRecord)
			var r record
			if err != nil || json.Unmarshal(b, &r) != nil || r.Image.Reference != reference {
				continue
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("oci: removing %s: %w", reference, err)
			}
			found = true
		}
		if found {
			return syncDir(s.path(refsDir))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fail(ErrNotFound, "oci: removing %s: it is not in the image store", clip(ref))
}
