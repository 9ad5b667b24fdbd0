package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Use is something outside the store that depends on an image in it.
type Use struct {
	By string // for people: "box web (01J…)"
	// Image is the manifest's digest; Reference is what is meant where the
	// image is only chosen later.
	Image     Digest
	Reference string
	// Paths are the files of the store that are read or will be.
	Paths []string
}

// Uses lists what depends on images. It is asked while the store is locked, so
// that what was noted under Hold is in the answer.
type Uses func(context.Context) ([]Use, error)

func (u Uses) list(ctx context.Context) ([]Use, error) {
	if u == nil {
		return nil, nil
	}
	return u(ctx)
}

// of returns what depends on img.
func (s *Store) usesOf(uses []Use, img *Image) []Use {
	var out []Use
	for _, u := range uses {
		if u.Image != "" && u.Image == img.Digest || u.Image == "" && s.means(u.Reference, img) {
			out = append(out, u)
		}
	}
	return out
}

func (s *Store) means(ref string, img *Image) bool {
	if ref == "" {
		return false
	}
	if isDigestKey(ref) && img.has(trimDigest(ref)) {
		return true
	}
	targets, err := s.parse(ref)
	if err != nil {
		return false
	}
	for _, t := range targets {
		if t.String() == img.Reference {
			return true
		}
	}
	return false
}

// contents are the folders whose files are named by content, and the names of
// the files in them that are ours. Others, such as those of another version of
// the program, are not looked at.
var contents = []struct {
	dir  string
	name *regexp.Regexp
}{
	// A blob goes before its metadata, which alone is no layer.
	{layersDir, regexp.MustCompile(`^[0-9a-f]{64}\.v1\.(blob|meta)$`)},
	{rootfsDir, regexp.MustCompile(`^[0-9a-f]{64}\.v1\.erofs$`)},
	{blobsDir, regexp.MustCompile(`^[0-9a-f]{64}$`)},
}

// eachContent calls f for every content file, by its name in the store.
func (s *Store) eachContent(f func(name string, info fs.FileInfo) error) error {
	for _, c := range contents {
		entries, err := os.ReadDir(s.path(c.dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !c.name.MatchString(e.Name()) {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			if err := f(c.dir+"/"+e.Name(), info); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted returns the names of all files that a record, a lease or a use names.
// Records that are no good are removed: what they name is not all there.
func (s *Store) wanted(ctx context.Context, uses []Use) (map[string]bool, error) {
	recs, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, r := range recs {
		if r.err != nil && r.Version <= recordVersion {
			s.log.Warn("image store: useless record removed", "err", r.err)
			if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		for _, p := range s.imagePaths(r.Image) {
			keep[s.rel(p)] = true
		}
	}
	for _, u := range uses {
		for _, p := range u.Paths {
			keep[s.rel(p)] = true
			if blob, ok := strings.CutSuffix(p, blobSuffix); ok {
				keep[s.rel(blob+metaSuffix)] = true // or the layer would be fetched anew for the next box
			}
		}
		if u.Image != "" {
			keep[s.rel(s.blobPath(u.Image))] = true
		}
	}
	return keep, s.leased(keep)
}

// collect removes what nothing names, and returns how much space that freed.
// The store's lock is held exclusively.
func (s *Store) collect(ctx context.Context, uses []Use) (freed int64, err error) {
	keep, err := s.wanted(ctx, uses)
	if err != nil {
		return 0, err
	}
	err = s.eachContent(func(name string, info fs.FileInfo) error {
		if keep[name] {
			return nil
		}
		if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		freed += onDisk(info)
		return nil
	})
	if err != nil {
		return freed, err
	}
	return freed, s.noteOrphans(ctx, uses)
}

// onDisk is the space a file really takes up, in bytes.
func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512 // stat(2): always units of 512 bytes
	}
	return info.Size()
}

// orphansName is a file that is there while the store has, or may have, images
// that no reference is left of, but a use. It lets whoever ends a use find out
// with one stat that there is something to remove.
const orphansName = "orphans"

// HasOrphans tells whether Collect may have something to do in the store at root.
func HasOrphans(root string) bool {
	_, err := os.Stat(filepath.Join(root, orphansName))
	return !errors.Is(err, fs.ErrNotExist)
}

// noteOrphans brings that file up to date. The store's lock is held exclusively.
func (s *Store) noteOrphans(ctx context.Context, uses []Use) error {
	recs, err := s.records(ctx)
	if err != nil {
		return err
	}
	for _, u := range uses {
		if u.Image != "" && !namedBesides(recs, nil, u.Image) {
			return os.WriteFile(s.path(orphansName), nil, 0o644)
		}
	}
	if err := os.Remove(s.path(orphansName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Collect removes the files of images that lost their last reference while
// something used them, and that nothing uses any more. It costs next to nothing
// when there are none.
func (s *Store) Collect(ctx context.Context, uses Uses) (freed int64, err error) {
	if !HasOrphans(s.root) {
		return 0, nil
	}
	lock, err := s.lockStore(ctx, syscall.LOCK_EX)
	if err != nil {
		return 0, s.diskError(err, 0)
	}
	defer lock.Close()
	used, err := uses.list(ctx)
	if err == nil {
		freed, err = s.collect(ctx, used)
	}
	if err != nil {
		return freed, fmt.Errorf("oci: removing unused images: %w", err)
	}
	return freed, nil
}
