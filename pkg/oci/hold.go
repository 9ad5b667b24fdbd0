package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Removing files from a store that other processes use at the same moment takes
// two things. A lease lists the files that a pull or an export counts on, from
// before it looks whether they are there. The store's lock makes the list
// reliable: it is held exclusively from looking at records and leases to the
// last removal, and shared for the instants in which a record or a lease is
// written. So a removal sees a lease, or the lease's owner sees that the file is
// gone. The kernel drops lock and leases with their holders.
const (
	lockName  = "lock"
	leasesDir = "leases"
)

// Hold keeps every process from removing anything from the store until release
// is called, for the moment between finding an image and noting somewhere who
// uses it. Long work belongs outside: removals wait. It may be nested.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	f, err := s.lockStore(ctx, syscall.LOCK_SH)
	if err != nil {
		return nil, s.diskError(err, 0)
	}
	return func() { f.Close() }, nil
}

// lockStore takes the lock of the whole store, which never goes away.
func (s *Store) lockStore(ctx context.Context, how int) (*os.File, error) {
	f, err := os.OpenFile(s.path(lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, lockPoll) {
		err := flockAs(f, how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, errLocked) {
			f.Close()
			return nil, err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			f.Close()
			return nil, context.Cause(ctx)
		case <-t.C:
		}
	}
}

// lease protects files of the store, by name, from removal while it is held.
type lease struct {
	s *Store
	f *os.File
}

// newLease protects nothing yet.
func (s *Store) newLease() (*lease, error) {
	f, err := s.tempIn(leasesDir)
	if err != nil {
		return nil, s.diskError(err, 0)
	}
	return &lease{s: s, f: f}, nil
}

// add protects more files, there or not. What it protects must not be looked
// for before it returns.
func (l *lease) add(ctx context.Context, paths ...string) error {
	release, err := l.s.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	var b strings.Builder
	for _, p := range paths {
		b.WriteString(l.s.rel(p) + "\n")
	}
	_, err = l.f.WriteString(b.String())
	return l.s.diskError(err, int64(b.Len()))
}

func (l *lease) drop() { dropTemp(l.f) }

// rel is a path of the store as leases have it; paths elsewhere stay as they are.
func (s *Store) rel(path string) string {
	if r, err := filepath.Rel(s.root, path); err == nil && filepath.IsLocal(r) {
		return r
	}
	return path
}

// imagePaths are the files that an image consists of.
func (s *Store) imagePaths(img Image) []string {
	var paths []string
	for _, d := range []Digest{img.Digest, img.IndexDigest, img.ConfigDigest} {
		if d != "" {
			paths = append(paths, s.blobPath(d))
		}
	}
	for _, l := range img.Layers {
		paths = append(paths, s.layerBlob(l.DiffID), s.layerMeta(l.DiffID))
	}
	return append(paths, s.indexPath(img))
}

// leased adds the files of all leases to keep, and removes leases of the dead.
// The store's lock is held exclusively.
func (s *Store) leased(keep map[string]bool) error {
	entries, err := os.ReadDir(s.path(leasesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(leasesDir, e.Name())
		switch err := removeDead(path); {
		case err == nil:
			continue
		case !errors.Is(err, errLocked):
			return err
		}
		b, err := readLimited(path, maxRecord)
		if errors.Is(err, os.ErrNotExist) {
			continue // dropped meanwhile
		} else if err != nil {
			return err
		}
		for name := range strings.Lines(string(b)) {
			keep[strings.TrimSuffix(name, "\n")] = true
		}
	}
	return nil
}
