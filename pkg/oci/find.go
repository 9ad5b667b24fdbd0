package oci

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Digests name images too, in full or by their beginning: with "sha256:" in
// front always, and bare where no reference is meant by it. What is looked for
// is the digest of an image's manifest, its config (docker's image id), or the
// index it was chosen from.
const (
	minBareDigest = 12 // digits that make a bare word a digest where images are run
	minDigest     = 4  // digits that do where only images of the store are meant
)

// hasDigestPrefix tells a word that can only be meant as a digest.
func hasDigestPrefix(key string) bool {
	rest, ok := strings.CutPrefix(key, digestPrefix)
	return ok && isHex(rest, 1)
}

// isDigestKey tells a word that names an image by digest, if it is in the store.
func isDigestKey(key string) bool { return hasDigestPrefix(key) || isHex(key, minBareDigest) }

func isHex(s string, least int) bool {
	return len(s) >= least && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// has tells whether a digest of the image begins with prefix, without "sha256:".
func (img *Image) has(prefix string) bool {
	for _, d := range []Digest{img.Digest, img.IndexDigest, img.ConfigDigest} {
		if strings.HasPrefix(d.Hex(), prefix) {
			return true
		}
	}
	return false
}

// find is lookupAny for references and digests. want, if set, is the digest
// of the manifest, whatever name it is known by.
func (s *Store) find(ctx context.Context, key string, targets []target, p Platform, want Digest) (Image, error) {
	if want != "" {
		return s.findDigest(ctx, string(want), p)
	}
	if hasDigestPrefix(key) {
		return s.findDigest(ctx, key, p)
	}
	img, err := s.lookupAny(ctx, targets, p)
	if errors.Is(err, ErrNotFound) && isDigestKey(key) {
		if img, derr := s.findDigest(ctx, key, p); !errors.Is(derr, ErrNotFound) {
			return img, derr
		}
	}
	return img, err
}

func (s *Store) findDigest(ctx context.Context, key string, p Platform) (Image, error) {
	recs, err := s.records(ctx)
	if err != nil {
		return Image{}, err
	}
	recs, err = withDigest(recs, key)
	if err != nil {
		return Image{}, err
	}
	var best *Image
	for i, r := range recs {
		// Of the images of one index, the platform's.
		if r.err == nil && (best == nil || p.score(r.Image.Platform) > p.score(best.Platform)) {
			best = &recs[i].Image
		}
	}
	if best == nil {
		return Image{}, fail(ErrNotFound, "no image in the image store has the digest %s", clip(key))
	}
	return *best, nil
}

// withDigest picks the records of the one image that key means, or of the
// images of the one index.
func withDigest(recs []recordFile, key string) ([]recordFile, error) {
	prefix := strings.TrimPrefix(key, digestPrefix)
	var out []recordFile
	one, several := true, map[Digest]bool{}
	for _, r := range recs {
		if !r.Image.has(prefix) {
			continue
		}
		if out = append(out, r); r.Image.IndexDigest != out[0].Image.IndexDigest {
			one = false
		}
		several[r.Image.Digest] = true
	}
	if len(several) > 1 && !one {
		var names []string
		for _, r := range out {
			names = append(names, r.Image.Digest.Short()+" ("+clip(r.Image.Reference)+")")
		}
		return nil, fail(ErrAmbiguous, "several images have digests that begin with %s: %s; give more of it", clip(key), list(names))
	}
	return out, nil
}

// Find returns all that key names among the images of the store: the one of a
// reference, for each platform it was pulled for, or the ones of a digest or the
// beginning of one (at least 4 digits), by each of their references. Images that
// are there in part, which can be removed but not run, are left out. None is
// ErrNotFound, a beginning that is not enough ErrAmbiguous.
func (s *Store) Find(ctx context.Context, key string) ([]Image, error) {
	recs, _, err := s.match(ctx, key)
	if err != nil {
		return nil, keyError("", key, err)
	}
	var out []Image
	for _, r := range recs {
		if r.err == nil {
			out = append(out, r.Image)
		}
	}
	if len(out) == 0 {
		return nil, fail(ErrNotFound, "oci: %s is in the image store only in part: pull it again", clip(key))
	}
	return out, nil
}

// keyError says what was done to which image, unless err does.
func keyError(doing, key string, err error) error {
	if errors.Is(err, ErrReference) {
		return err
	}
	return fmt.Errorf("oci: %s%s: %w", doing, clip(key), err)
}

// match returns the records that key names. byDigest: it did not name them by a
// reference of theirs.
func (s *Store) match(ctx context.Context, key string) (recs []recordFile, byDigest bool, err error) {
	targets, err := s.parse(key)
	if err != nil && !isHex(strings.TrimPrefix(key, digestPrefix), minDigest) {
		return nil, false, err
	}
	all, err := s.records(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, t := range targets {
		for _, r := range all {
			if r.Image.Reference == t.String() {
				recs = append(recs, r)
			}
		}
		if len(recs) > 0 {
			return recs, false, nil
		}
		if d, ok := t.ref.(name.Digest); ok && t.kind == fromRegistry {
			recs, err = withDigest(inRepository(all, d.Context()), d.DigestStr())
			if err != nil || len(recs) > 0 {
				return recs, true, err
			}
		}
	}
	if isHex(strings.TrimPrefix(key, digestPrefix), minDigest) {
		recs, err = withDigest(all, key)
		if err != nil || len(recs) > 0 {
			return recs, true, err
		}
	}
	return nil, false, fail(ErrNotFound, "no such image in the image store; `boxlite images` lists what is there")
}

func inRepository(all []recordFile, repo name.Repository) []recordFile {
	var out []recordFile
	for _, r := range all {
		if t, err := parseReference(r.Image.Reference, nil, nil); err == nil && t[0].kind == fromRegistry && t[0].ref.Context().Name() == repo.Name() {
			out = append(out, r)
		}
	}
	return out
}
