package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// RemoveOptions of one Remove. The zero value is usable.
type RemoveOptions struct {
	// Force removes an image by digest with all the references it has, and
	// takes the name from one that is in use; its files then stay until
	// nothing uses them, see Prune.
	Force bool
	Uses  Uses
}

// Removed is what Remove or Prune took away.
type Removed struct {
	Untagged []string // references
	Deleted  []Digest // of images that no reference is left of, nor files
	Freed    int64    // bytes on disk
	// Kept are the images that no reference is left of, but files, because
	// something uses them.
	Kept []Digest
}

// Remove takes a reference away, for all platforms it was pulled for, or with a
// digest, or the beginning of one, all references of an image. Files that
// nothing else needs are deleted. An image that is in use is ErrInUse, one of
// several references that is named by digest too, unless Force is set. Nothing
// is lost however it ends: either a reference is there with all its files, or
// the rest goes with the next Remove or Prune.
func (s *Store) Remove(ctx context.Context, key string, o RemoveOptions) (Removed, error) {
	r, err := s.remove(ctx, key, o)
	if err != nil {
		return r, keyError("removing ", key, err)
	}
	return r, nil
}

func (s *Store) remove(ctx context.Context, key string, o RemoveOptions) (Removed, error) {
	lock, err := s.lockStore(ctx, syscall.LOCK_EX)
	if err != nil {
		return Removed{}, s.diskError(err, 0)
	}
	defer lock.Close()
	recs, byDigest, err := s.match(ctx, key)
	if err != nil {
		return Removed{}, err
	}
	uses, err := o.Uses.list(ctx)
	if err != nil {
		return Removed{}, err
	}
	if byDigest && !o.Force {
		if err := oneReference(recs); err != nil {
			return Removed{}, err
		}
	}
	all, err := s.records(ctx)
	if err != nil {
		return Removed{}, err
	}
	// What has been started holds its files, whatever they are called; what has
	// not can only find them by the name, and force does not help.
	unstarted := slices.DeleteFunc(slices.Clone(uses), func(u Use) bool { return len(u.Paths) > 0 })
	for _, r := range recs {
		if namedBesides(all, recs, r.Image.Digest) {
			continue
		}
		if by := s.usesOf(unstarted, &r.Image); len(by) > 0 {
			was, need := "was", "needs"
			if len(by) > 1 {
				was, need = "were", "need"
			}
			return Removed{}, fail(ErrInUse, "%s %s not started yet and %s the name: remove %s first", users(by), was, need, them(by))
		}
		if by := s.usesOf(uses, &r.Image); len(by) > 0 && !o.Force {
			return Removed{}, fail(ErrInUse, "it is used by %s: remove %s first, or take only the name away with -f", users(by), them(by))
		}
	}
	return s.drop(ctx, all, recs, uses)
}

// drop removes records, and then what nobody needs any more. The store's lock
// is held exclusively.
func (s *Store) drop(ctx context.Context, all, recs []recordFile, uses []Use) (Removed, error) {
	var out Removed
	for _, r := range recs {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out, err
		}
		if !slices.Contains(out.Untagged, r.Image.Reference) {
			out.Untagged = append(out.Untagged, r.Image.Reference)
		}
		d, to := r.Image.Digest, &out.Deleted
		if slices.ContainsFunc(uses, func(u Use) bool { return u.Image == d }) {
			to = &out.Kept
		}
		if !namedBesides(all, recs, d) && !slices.Contains(*to, d) {
			*to = append(*to, d)
		}
	}
	// On disk before any file that they name goes.
	if err := syncDir(s.path(refsDir)); err != nil {
		return out, err
	}
	var err error
	out.Freed, err = s.collect(ctx, uses)
	return out, err
}

// namedBesides tells whether a record that is not among gone has the image.
func namedBesides(all, gone []recordFile, d Digest) bool {
	return slices.ContainsFunc(all, func(r recordFile) bool {
		return r.Image.Digest == d && r.err == nil && !slices.ContainsFunc(gone, func(g recordFile) bool { return g.path == r.path })
	})
}

// oneReference refuses a digest that stands for several names.
func oneReference(recs []recordFile) error {
	var names []string
	for _, r := range recs {
		if !slices.Contains(names, r.Image.Reference) {
			names = append(names, r.Image.Reference)
		}
	}
	if len(names) > 1 {
		return fail(ErrInUse, "the image has several names: %s; remove those, or all of them with -f", list(names))
	}
	return nil
}

// maxUsers is how many users of an image an error names.
const maxUsers = 3

func users(uses []Use) string {
	var names []string
	for _, u := range uses[:min(len(uses), maxUsers)] {
		names = append(names, u.By)
	}
	text := list(names)
	if more := len(uses) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more (`boxlite ls -a` lists them)", more)
	}
	return text
}

func them(uses []Use) string {
	if len(uses) > 1 {
		return "those"
	}
	return "that"
}

func trimDigest(key string) string { return strings.TrimPrefix(key, digestPrefix) }

// PruneOptions of one Prune. The zero value is usable.
type PruneOptions struct {
	// All removes every image that is not in use; without it only those go
	// that no name leads to.
	All  bool
	Uses Uses
}

// Prune removes images that are not in use, downloads that were given up, and
// files that nothing names.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Removed, error) {
	r, err := s.prune(ctx, o)
	if err != nil {
		return r, fmt.Errorf("oci: pruning images: %w", err)
	}
	return r, nil
}

func (s *Store) prune(ctx context.Context, o PruneOptions) (Removed, error) {
	lock, err := s.lockStore(ctx, syscall.LOCK_EX)
	if err != nil {
		return Removed{}, s.diskError(err, 0)
	}
	defer lock.Close()
	uses, err := o.Uses.list(ctx)
	if err != nil {
		return Removed{}, err
	}
	all, err := s.records(ctx)
	if err != nil {
		return Removed{}, err
	}
	var recs []recordFile
	for _, r := range all {
		if (o.All || r.Image.Dangling) && len(s.usesOf(uses, &r.Image)) == 0 && r.Version <= recordVersion {
			recs = append(recs, r)
		}
	}
	out, err := s.drop(ctx, all, recs, uses)
	if err != nil {
		return out, err
	}
	before := s.unfinished()
	s.sweep(tmpDir, func(fs.FileInfo) bool { return true })
	s.sweep(partialDir, func(fs.FileInfo) bool { return true })
	out.Freed += max(0, before-s.unfinished())
	return out, nil
}
