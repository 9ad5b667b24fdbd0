package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// An artifact is anything but an image that is kept the way images are: a
// manifest with files for layers, or an index with one per platform (OCI
// image-spec 1.1, "Guidelines for Artifact Usage").

// Artifact says what was read of one.
type Artifact struct {
	Reference string // normalised
	// Digest is that of what the reference names, Manifest the platform's.
	Digest, Manifest Digest
	Annotations      map[string]string // of the manifest
	Files            []ArtifactFile
}

// ArtifactFile is a layer of an artifact.
type ArtifactFile struct {
	MediaType   string
	Digest      Digest
	Size        int64 // bytes as distributed
	Annotations map[string]string
}

// ArtifactOptions of one ReadArtifact.
type ArtifactOptions struct {
	// Type is the artifactType that the manifest must have.
	Type string
	// Digest, if set, is what Artifact.Digest must be; a registry is asked
	// for it instead of the tag.
	Digest Digest
	// Platform to take of an index; zero means the store's.
	Platform Platform
	// Progress as in PullOptions.
	Progress func(Event)
	// Want tells whether the artifact is to be read on, once it is known
	// which it is. nil means yes.
	Want func(Artifact) (bool, error)
}

const maxArtifactFiles = 16

// ReadArtifact finds an artifact in a registry, an image layout or an
// oci-archive and calls read for each of its files in turn. What a reader gets
// is only good once ReadArtifact has returned without error: digest and size are
// verified at the end of the file. After a broken download read may be called
// for the same file again. Nothing of it enters the store, apart from what is
// needed to continue a download.
func (s *Store) ReadArtifact(ctx context.Context, ref string, o ArtifactOptions, read func(ArtifactFile, io.Reader) error) (Artifact, error) {
	targets, err := s.parse(ref)
	if err != nil {
		return Artifact{}, err
	}
	t := targets[0]
	if o.Digest != "" && t.kind == fromRegistry {
		t.ref = t.ref.Context().Digest(string(o.Digest))
	}
	if o.Platform.isZero() {
		o.Platform = s.opts.Platform
	}
	a, err := s.readArtifact(ctx, t, o, read)
	if err != nil {
		return Artifact{}, fmt.Errorf("oci: reading artifact %s: %w", t, err)
	}
	return a, nil
}

func (s *Store) readArtifact(ctx context.Context, t target, o ArtifactOptions, read func(ArtifactFile, io.Reader) error) (Artifact, error) {
	if t.kind == fromTree || t.kind == fromDockerArchive {
		return Artifact{}, fail(ErrUnsupported, "artifacts are in registries, image layouts and oci-archives")
	}
	src, err := s.openSource(ctx, t)
	if err != nil {
		return Artifact{}, err
	}
	defer src.Close()
	ev := newEvents(o.Progress, t.String())
	ev.send("", Resolving, 0, 0)
	a, doc, err := s.chooseArtifact(ctx, src, t, o)
	if err != nil {
		return Artifact{}, err
	}
	if o.Want != nil {
		if want, err := o.Want(a); err != nil || !want {
			return a, err
		}
	}
	for i, d := range doc.Layers {
		if err := s.readFile(ctx, src, d, ev, func(r io.Reader) error { return read(a.Files[i], r) }); err != nil {
			return Artifact{}, err
		}
		ev.send(d.Digest, Done, d.Size, d.Size)
	}
	ev.send("", Done, 0, 0)
	return a, nil
}

// chooseArtifact reads the manifest for the platform.
func (s *Store) chooseArtifact(ctx context.Context, src source, t target, o ArtifactOptions) (Artifact, *document, error) {
	raw, _, err := src.top(ctx)
	if err != nil {
		return Artifact{}, nil, err
	}
	a := Artifact{Reference: t.String(), Digest: digestOf(raw)}
	if o.Digest != "" && a.Digest != o.Digest {
		return Artifact{}, nil, fail(ErrCorrupt, "it has the digest %s, wanted is %s", a.Digest, o.Digest)
	}
	doc, err := parseArtifact(raw)
	if err != nil {
		return Artifact{}, nil, err
	}
	a.Manifest = a.Digest
	if doc.Manifests != nil {
		var best descriptor
		var offers []Platform
		score := 0
		for _, d := range doc.Manifests {
			if d.Platform == nil {
				continue
			}
			offers = append(offers, d.Platform.normal())
			if n := o.Platform.score(*d.Platform); n > score {
				best, score = d, n
			}
		}
		if score == 0 {
			return Artifact{}, nil, fail(ErrPlatform, "it is not available for %s, only for %s", o.Platform, platformList(offers))
		}
		if err := best.check(maxManifest); err != nil {
			return Artifact{}, nil, fail(ErrUnsupported, "index entry: %w", err)
		}
		if raw, err = src.manifest(ctx, best); err != nil {
			return Artifact{}, nil, err
		}
		if err := verify("manifest", raw, best); err != nil {
			return Artifact{}, nil, err
		}
		a.Manifest = best.Digest
		if doc, err = parseArtifact(raw); err != nil {
			return Artifact{}, nil, err
		}
	}
	if doc.Manifests != nil || doc.ArtifactType != o.Type {
		return Artifact{}, nil, fail(ErrUnsupported, "not an artifact of type %s, but %q", o.Type, clip(doc.ArtifactType))
	}
	if n := len(doc.Layers); n == 0 || n > maxArtifactFiles {
		return Artifact{}, nil, fail(ErrUnsupported, "artifact of %d files, not 1 to %d", n, maxArtifactFiles)
	}
	a.Annotations = doc.Annotations
	for i, d := range doc.Layers {
		if err := d.check(maxBlob); err != nil {
			return Artifact{}, nil, fail(ErrUnsupported, "file %d: %w", i+1, err)
		}
		a.Files = append(a.Files, ArtifactFile{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: d.Annotations})
	}
	return a, doc, nil
}

// parseArtifact decodes a manifest or index, which need not be one of images.
func parseArtifact(raw []byte) (*document, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fail(ErrCorrupt, "manifest is not valid: %w", err)
	}
	if d.SchemaVersion != 2 || d.Manifests != nil && (d.Config != nil || d.Layers != nil) {
		return nil, fail(ErrUnsupported, "neither an artifact's manifest nor an index")
	}
	return &d, nil
}

// readFile hands a verified blob to read.
func (s *Store) readFile(ctx context.Context, src source, d descriptor, ev *events, read func(io.Reader) error) error {
	path := s.partialPath(d.Digest)
	lock, err := lockWait(ctx, path, func() { ev.send(d.Digest, Waiting, 0, d.Size) })
	if err != nil {
		return s.diskError(err, d.Size)
	}
	defer lock.Close()
	j := &layerJob{s: s, src: src, desc: d, ev: ev}
	resumed, err := j.readFile(ctx, lock, read)
	if resumed && errors.Is(err, ErrCorrupt) {
		s.log.Warn("artifact: continued download is damaged, starting over", "file", d.Digest, "err", err)
		if err = lock.Truncate(0); err == nil {
			_, err = j.readFile(ctx, lock, read)
		}
	}
	if err == nil || !j.worthKeeping(lock, err) {
		os.Remove(path)
	}
	return err
}

func (j *layerJob) readFile(ctx context.Context, lock *os.File, read func(io.Reader) error) (resumed bool, err error) {
	in, have, end, err := j.open(ctx, lock)
	if err != nil {
		return false, err
	}
	defer end()
	in.report()
	err = read(in)
	if in.err != nil {
		return have > 0, in.err
	}
	// As for layers: bytes behind what read wanted count too, and whether bytes
	// that do not unpack are the right ones only the digest tells.
	if _, derr := io.Copy(io.Discard, in); derr != nil {
		return have > 0, derr
	}
	if cerr := in.check(j); cerr != nil {
		return have > 0, cerr
	}
	return have > 0, err
}
