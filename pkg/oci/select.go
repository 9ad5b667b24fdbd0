package oci

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// Bounds of an index that lists indexes, as images for several platforms
// assembled from images for several platforms do.
const (
	maxIndexDepth  = 4
	maxIndexVisits = 64
)

// chosen is the image manifest that serves a platform.
type chosen struct {
	doc      *document
	raw      []byte
	digest   Digest
	platform Platform // as its index states it; zero if not
}

// selector walks the manifests of one image.
type selector struct {
	s      *Store
	src    source
	keep   *lease
	want   Platform
	seen   map[Digest]bool
	offers []Platform // what there is, for the message
	best   descriptor
	score  int
	blind  []descriptor // manifests whose index does not say for which platform
}

// choose returns the image for platform want from the manifest or index raw.
func (s *Store) choose(ctx context.Context, src source, raw []byte, mediaType string, want Platform, keep *lease) (chosen, error) {
	doc, err := parseDocument(raw, mediaType)
	if err != nil {
		return chosen{}, err
	}
	if !doc.isIndex() {
		return chosen{doc: doc, raw: raw, digest: digestOf(raw)}, nil
	}
	sel := &selector{s: s, src: src, keep: keep, want: want, seen: map[Digest]bool{digestOf(raw): true}}
	if err := sel.walk(ctx, doc, 1); err != nil {
		return chosen{}, err
	}
	if sel.score > 0 {
		return sel.load(ctx, sel.best)
	}
	return sel.tryBlind(ctx)
}

func (sel *selector) walk(ctx context.Context, index *document, depth int) error {
	if depth > maxIndexDepth {
		return fail(ErrUnsupported, "image index is nested more than %d deep", maxIndexDepth)
	}
	for _, d := range index.Manifests {
		p := d.Platform
		switch {
		case p != nil && p.OS == "unknown":
			// buildkit's attestations: manifests, but not of images.
			continue
		case sel.seen[d.Digest]:
			continue
		}
		switch d.MediaType {
		case typeOCIIndex, typeDockerList:
			if p != nil && p.Architecture != "" && sel.want.score(*p) == 0 {
				sel.offers = append(sel.offers, *p)
				continue
			}
			sel.seen[d.Digest] = true
			if len(sel.seen) > maxIndexVisits {
				return fail(ErrUnsupported, "image index lists more than %d indexes", maxIndexVisits)
			}
			raw, err := sel.s.fetchManifest(ctx, sel.src, d)
			if err != nil {
				return err
			}
			sub, err := parseDocument(raw, d.MediaType)
			if err != nil {
				return err
			}
			if err := sel.walk(ctx, sub, depth+1); err != nil {
				return err
			}
		case typeOCIManifest, typeDockerManifest, "":
			if p == nil || p.Architecture == "" {
				sel.seen[d.Digest] = true
				sel.blind = append(sel.blind, d)
				continue
			}
			sel.offers = append(sel.offers, p.normal())
			if n := sel.want.score(*p); n > sel.score {
				sel.best, sel.score = d, n
			}
		}
		// Anything else listed is not an image.
	}
	return nil
}

// tryBlind looks into the manifests that do not say what they are for.
func (sel *selector) tryBlind(ctx context.Context) (chosen, error) {
	const most = 8
	for i, d := range sel.blind {
		if i == most {
			break
		}
		c, err := sel.load(ctx, d)
		if err != nil {
			return chosen{}, err
		}
		cfg, _, err := sel.s.fetchConfig(ctx, sel.src, c.doc, sel.keep)
		if err != nil {
			if errors.Is(err, ErrUnsupported) {
				continue // an artifact, not an image
			}
			return chosen{}, err
		}
		if cfg.Architecture == "" || sel.want.score(cfg.Platform) > 0 {
			return c, nil
		}
		sel.offers = append(sel.offers, cfg.Platform.normal())
	}
	if len(sel.offers) == 0 {
		return chosen{}, fail(ErrUnsupported, "image index lists no images")
	}
	return chosen{}, fail(ErrPlatform, "image is not available for %s, only for %s", sel.want, platformList(sel.offers))
}

func (sel *selector) load(ctx context.Context, d descriptor) (chosen, error) {
	raw, err := sel.s.fetchManifest(ctx, sel.src, d)
	if err != nil {
		return chosen{}, err
	}
	doc, err := parseDocument(raw, d.MediaType)
	if err != nil {
		return chosen{}, err
	}
	if doc.isIndex() {
		return chosen{}, fail(ErrCorrupt, "%s is listed as an image manifest but is an index", d.Digest)
	}
	c := chosen{doc: doc, raw: raw, digest: d.Digest}
	if d.Platform != nil && d.Platform.Architecture != "" {
		c.platform = d.Platform.normal()
	}
	return c, nil
}

// fetchManifest returns a manifest or index listed in another, from the store
// if it is there, and checked in any case.
func (s *Store) fetchManifest(ctx context.Context, src source, d descriptor) ([]byte, error) {
	if raw, ok := s.readBlob(d.Digest, maxManifest); ok {
		return raw, nil
	}
	raw, err := src.manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	return raw, verify("manifest", raw, d)
}

// fetchConfig returns the config of an image manifest. Of several processes
// that want it one fetches it.
func (s *Store) fetchConfig(ctx context.Context, src source, doc *document, keep *lease) (*imageConfig, []byte, error) {
	d := *doc.Config
	if err := keep.add(ctx, s.blobPath(d.Digest)); err != nil {
		return nil, nil, err
	}
	raw, ok := s.readBlob(d.Digest, maxConfig)
	if !ok {
		lock, err := lockWait(ctx, s.partialPath(d.Digest), func() {})
		if err != nil {
			return nil, nil, err
		}
		defer lock.Close()
		defer os.Remove(lock.Name())
		if raw, ok = s.readBlob(d.Digest, maxConfig); !ok {
			err := s.retry(ctx, func() error {
				body, err := src.blob(ctx, d, 0)
				if err != nil {
					return err
				}
				defer body.Close()
				raw, err = readAtMost(body, d.Size)
				if errors.Is(err, errTooLarge) {
					return fail(ErrCorrupt, "config %s is longer than the %d bytes its manifest says", d.Digest, d.Size)
				}
				return err
			})
			if err != nil {
				return nil, nil, err
			}
			if err := verify("config", raw, d); err != nil {
				return nil, nil, err
			}
			if err := s.writeFile(s.blobPath(d.Digest), raw); err != nil {
				return nil, nil, err
			}
		}
	}
	cfg, err := parseConfig(raw, len(doc.Layers))
	return cfg, raw, err
}

func verify(what string, raw []byte, d descriptor) error {
	if got := digestOf(raw); got != d.Digest {
		return fail(ErrCorrupt, "%s %s arrived with the digest %s (%d bytes of %d)", what, d.Digest, got, len(raw), d.Size)
	}
	if int64(len(raw)) != d.Size {
		return fail(ErrCorrupt, "%s %s is %d bytes, its descriptor says %d", what, d.Digest, len(raw), d.Size)
	}
	return nil
}

// readBlob returns a small blob of the store. One that does not have its
// digest (a disk fault, a careless hand) counts as absent.
func (s *Store) readBlob(d Digest, limit int64) ([]byte, bool) {
	raw, err := readLimited(s.blobPath(d), limit)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("image store: unreadable blob", "digest", d, "err", err)
		}
		return nil, false
	}
	if digestOf(raw) != d {
		s.log.Warn("image store: damaged blob ignored", "digest", d)
		return nil, false
	}
	return raw, true
}
