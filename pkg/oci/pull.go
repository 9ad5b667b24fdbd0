package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Policy says when Pull asks the source.
type Policy int

const (
	// PullMissing asks only for what the store does not have. What a tag
	// meant when it was pulled is kept; images imported from files are
	// looked at again if the files have changed.
	PullMissing Policy = iota
	// PullAlways asks for the manifest every time.
	PullAlways
	// PullNever uses what is in the store and fails otherwise.
	PullNever
)

// PullOptions of one Pull. The zero value is usable.
type PullOptions struct {
	// Progress, if set, is told how the pull is getting on. It is called by
	// one goroutine at a time, not after Pull has returned, and must not
	// block for long.
	Progress func(Event)
	// Platform to pull for; zero means the store's.
	Platform Platform
	Policy   Policy
	// Digest, if set, is the one that the image's manifest must have:
	// registries are asked for it instead of what the reference names, and
	// images from files that have become others are ErrNotFound.
	Digest Digest
}

// Pull returns the image that ref names, bringing it into the store if need
// be, root file system included. Any number of processes may pull the same
// image at once: each blob is fetched by one of them. A pull that is cut short
// in any way leaves the store usable, and the next one goes on from there.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	targets, err := s.parse(ref)
	if err != nil {
		return Image{}, err
	}
	platform := o.Platform
	if platform.isZero() {
		platform = s.opts.Platform
	}
	platform = platform.normal()
	if o.Policy != PullAlways || isDigestKey(ref) || o.Digest != "" {
		img, err := s.find(ctx, ref, targets, platform, o.Digest)
		if err == nil {
			newEvents(o.Progress, img.Reference).send("", Cached, 0, 0)
			return img, nil
		}
		if isDigestKey(ref) && (hasDigestPrefix(ref) || !errors.Is(err, ErrNotFound)) {
			return Image{}, fmt.Errorf("oci: %w", err)
		}
		if o.Policy == PullNever {
			return Image{}, fmt.Errorf("oci: %w, and pulling is switched off", err)
		}
	}
	s.clean()
	var failed attempts
	for _, t := range targets {
		if o.Digest != "" && t.kind == fromRegistry {
			t.ref = t.ref.Context().Digest(string(o.Digest))
		}
		img, err := s.pull(ctx, t, platform, o)
		if err == nil {
			return img, nil
		}
		if ctx.Err() != nil {
			return Image{}, fmt.Errorf("oci: pulling %s: %w", t, context.Cause(ctx))
		}
		if len(targets) > 1 {
			s.log.Warn("image pull: trying the next registry", "reference", t.String(), "err", err)
		}
		failed = append(failed, fmt.Errorf("oci: pulling %s: %w", t, err))
	}
	if _, err := os.Stat(ref); err == nil && targets[0].kind == fromRegistry {
		return Image{}, fmt.Errorf("%w; for the file or folder of that name write ./%s", failed.error(), ref)
	}
	return Image{}, failed.error()
}

// attempts are the errors of several registries, in one line.
type attempts []error

func (a attempts) error() error {
	if len(a) == 1 {
		return a[0]
	}
	return a
}

func (a attempts) Error() string {
	texts := make([]string, len(a))
	for i, err := range a {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (a attempts) Unwrap() []error { return a }

func (s *Store) pull(ctx context.Context, t target, want Platform, o PullOptions) (Image, error) {
	ev := newEvents(o.Progress, t.String())
	ev.send("", Resolving, 0, 0)
	keep, err := s.newLease()
	if err != nil {
		return Image{}, err
	}
	defer keep.drop()
	// Taken before anything is read, so that a change in between shows.
	stamp, err := s.stamp(ctx, t)
	if err != nil {
		return Image{}, err
	}
	var img Image
	if t.kind == fromTree {
		// The stamp is all there is to ask, even for PullAlways.
		if img, ok := s.lookup(t, want, stamp); ok && (o.Digest == "" || o.Digest == img.Digest) {
			ev.send("", Cached, 0, 0)
			return img, nil
		}
		img, err = s.importTree(ctx, t, want, stamp, keep, ev)
	} else {
		img, err = s.fetchFrom(ctx, t, want, keep, ev)
	}
	if err != nil {
		return Image{}, err
	}
	if o.Digest != "" && img.Digest != o.Digest {
		return Image{}, fail(ErrNotFound, "the image there is %s now, wanted is %s", img.Digest, o.Digest)
	}
	img.Reference = t.String()
	return s.enter(ctx, img, want, stamp, ev)
}

// enter gives an image whose files are all there and leased its name.
func (s *Store) enter(ctx context.Context, img Image, want Platform, stamp string, ev *events) (Image, error) {
	img.PulledAt = time.Now().UTC().Truncate(time.Millisecond)
	// Layers that do not fit together are found out here, not at the first run.
	if _, err := s.Rootfs(ctx, img, nil); err != nil {
		return Image{}, err
	}
	if err := s.writeRecord(ctx, img, want, stamp); err != nil {
		return Image{}, err
	}
	ev.send("", Done, img.Size, img.Size)
	return img, nil
}

func (s *Store) fetchFrom(ctx context.Context, t target, want Platform, keep *lease, ev *events) (Image, error) {
	src, err := s.openSource(ctx, t)
	if err != nil {
		return Image{}, err
	}
	defer src.Close()
	return s.fetch(ctx, src, want, keep, ev)
}

// fetch brings manifest, config and layers of an image into the store.
func (s *Store) fetch(ctx context.Context, src source, want Platform, keep *lease, ev *events) (Image, error) {
	top, mediaType, err := src.top(ctx)
	if err != nil {
		return Image{}, err
	}
	c, err := s.choose(ctx, src, top, mediaType, want, keep)
	if err != nil {
		return Image{}, err
	}
	cfg, _, err := s.fetchConfig(ctx, src, c.doc, keep)
	if err != nil {
		return Image{}, err
	}
	platform := c.platform
	if platform.isZero() {
		if cfg.Architecture != "" && want.score(cfg.Platform) == 0 {
			return Image{}, fail(ErrPlatform, "image is not available for %s, only for %s", want, clip(cfg.Platform.normal().String()))
		}
		platform = want
		if cfg.Architecture != "" {
			platform = cfg.Platform.normal()
		}
	}
	img := Image{
		Digest: c.digest, IndexDigest: digestOf(top), ConfigDigest: c.doc.Config.Digest,
		Platform: platform, Created: cfg.created(), Config: cfg.public(),
	}
	for i, d := range c.doc.Layers {
		img.Layers = append(img.Layers, Layer{Digest: d.Digest, DiffID: cfg.RootFS.DiffIDs[i], MediaType: d.MediaType, Size: d.Size})
	}
	if err := keep.add(ctx, s.imagePaths(img)...); err != nil {
		return Image{}, err
	}
	if err := s.fetchLayers(ctx, src, c.doc, img.Layers, ev); err != nil {
		return Image{}, err
	}
	for _, raw := range [][]byte{c.raw, top} {
		if _, err := os.Stat(s.blobPath(digestOf(raw))); err != nil {
			if err := s.writeFile(s.blobPath(digestOf(raw)), raw); err != nil {
				return Image{}, err
			}
		}
	}
	seen := map[Digest]bool{}
	for _, l := range img.Layers {
		if !seen[l.DiffID] {
			img.Size += l.Stored
		}
		seen[l.DiffID] = true
	}
	return img, nil
}

// fetchLayers brings in what is missing, and notes what each layer takes up.
func (s *Store) fetchLayers(ctx context.Context, src source, doc *document, layers []Layer, ev *events) error {
	jobs := make([]*layerJob, 0, len(doc.Layers))
	index := map[Digest]int{} // an image may contain the same layer twice
	var need int64
	for i, d := range doc.Layers {
		diffID := layers[i].DiffID
		if _, dup := index[diffID]; dup {
			continue
		}
		index[diffID] = len(jobs)
		jobs = append(jobs, &layerJob{s: s, src: src, desc: d, diffID: diffID, ev: ev})
		if _, ok := s.haveLayer(diffID); !ok {
			need += d.Size
			if st, err := os.Stat(s.partialPath(d.Digest)); err == nil {
				need -= min(st.Size(), d.Size)
			}
		}
	}
	if err := s.checkSpace(need); err != nil {
		return err
	}
	stored := make([]int64, len(jobs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.opts.Jobs)
	for i, j := range jobs {
		g.Go(func() (err error) {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			stored[i], err = j.run(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range layers {
		layers[i].Stored = stored[index[layers[i].DiffID]]
	}
	return nil
}
