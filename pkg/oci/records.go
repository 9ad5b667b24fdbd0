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
// has to be pulled again; nothing else depends on the file. What could be read
// of the record comes with it.
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
		return r, fmt.Errorf("oci: record %s: version %d with %d layers", path, r.Version, len(r.Image.Layers))
	}
	for _, l := range r.Image.Layers {
		if l.DiffID == "" {
			return r, fmt.Errorf("oci: record %s: layer without digest", path)
		}
		if n, ok := s.haveLayer(l.DiffID); !ok || n != l.Stored {
			return r, fmt.Errorf("oci: record %s: layer %s is missing: %w", path, l.DiffID, fs.ErrNotExist)
		}
	}
	return r, nil
}

// writeRecord gives an image its name. One that had the name before and has no
// other keeps its digest for a name: something may run from it.
func (s *Store) writeRecord(ctx context.Context, img Image, want Platform, stamp string) error {
	release, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	path := s.refPath(img.Reference, want)
	if old, err := s.readRecord(path); err == nil && old.Image.Digest != img.Digest {
		if ref, ok := danglingName(old.Image); ok && !s.named(ctx, old.Image.Digest, path) {
			old.Image.Reference, old.Image.Dangling = ref, true
			if err := s.putRecord(s.refPath(ref, want), record{Image: old.Image}); err != nil {
				return err
			}
		}
	}
	return s.putRecord(path, record{Stamp: stamp, Image: img})
}

func (s *Store) putRecord(path string, r record) error {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.writeFile(path, b)
}

// danglingName is what an image of a registry is called when its tag has moved
// on. Imports of files have no such name: files that have changed are gone.
func danglingName(img Image) (string, bool) {
	targets, err := parseReference(img.Reference, nil, nil)
	if err != nil || targets[0].kind != fromRegistry || img.Dangling {
		return "", false
	}
	t := targets[0]
	t.ref = t.ref.Context().Digest(string(img.IndexDigest))
	return t.String(), t.String() != img.Reference
}

// named tells whether a record other than the one at path has the image.
func (s *Store) named(ctx context.Context, d Digest, path string) bool {
	recs, err := s.records(ctx)
	return err == nil && slices.ContainsFunc(recs, func(r recordFile) bool {
		return r.path != path && r.err == nil && r.Image.Digest == d
	})
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
	recs, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, r := range recs {
		if r.err != nil {
			s.log.Warn("image store: record skipped", "err", r.err)
			continue
		}
		images = append(images, r.Image)
	}
	return images, nil
}

// recordFile is a record and where it is. err says why it is of no use, if so.
type recordFile struct {
	record
	path string
	err  error
}

// records reads all of refs/, sorted by reference.
func (s *Store) records(ctx context.Context) ([]recordFile, error) {
	entries, err := os.ReadDir(s.path(refsDir))
	if err != nil {
		return nil, err
	}
	var recs []recordFile
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		rf := recordFile{path: s.path(refsDir, e.Name())}
		rf.record, rf.err = s.readRecord(rf.path)
		recs = append(recs, rf)
	}
	slices.SortFunc(recs, func(a, b recordFile) int {
		return cmp.Or(cmp.Compare(a.Image.Reference, b.Image.Reference), cmp.Compare(a.Image.Platform.String(), b.Image.Platform.String()))
	})
	return recs, nil
}
