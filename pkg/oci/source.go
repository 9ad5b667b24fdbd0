package oci

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

// source is where an image comes from. What it returns is judged by the
// caller; a source itself only keeps within the size limits.
type source interface {
	// top returns the manifest or index that the reference names, its media
	// type as far as the source knows, and its digest.
	top(ctx context.Context) (raw []byte, mediaType string, err error)
	// manifest returns a manifest or index that an index lists.
	manifest(ctx context.Context, d descriptor) ([]byte, error)
	// blob returns a config or layer from byte off on.
	blob(ctx context.Context, d descriptor, off int64) (io.ReadCloser, error)
	// addressed is false where blobs are stored under names other than
	// their digests, so that a layer has only its DiffID to be held to.
	addressed() bool
	// remote is true where a blob costs network traffic, so that it pays to
	// keep what has arrived.
	remote() bool
	Close() error
}

func (s *Store) openSource(ctx context.Context, t target) (source, error) {
	switch t.kind {
	case fromRegistry:
		return s.newRegistry(t.ref), nil
	case fromLayout:
		files, err := openDir(t.path)
		if err != nil {
			return nil, pathError(t, err)
		}
		return newLayout(files, t)
	default:
		return s.openArchive(ctx, t)
	}
}

// parse is parseReference with paths looked at: a folder is an image layout, a
// file an archive.
func (s *Store) parse(ref string) ([]target, error) {
	targets, err := parseReference(ref, s.opts.Registries, s.isInsecure)
	for i := range targets {
		if targets[i].kind != fromPath {
			continue
		}
		targets[i].kind = fromLayout
		if fi, err := os.Stat(targets[i].path); err == nil && !fi.IsDir() {
			targets[i].kind = fromArchive
		}
	}
	return targets, err
}

// stamp identifies the present state of the files behind t, so that an import
// need not be repeated while they stay the same. Registries have none: what a
// tag means there is only looked at when asked to.
func (s *Store) stamp(ctx context.Context, t target) (string, error) {
	var stamp string
	var err error
	switch t.kind {
	case fromRegistry:
		return "", nil
	case fromTree:
		stamp, err = treeStamp(ctx, t.path)
	case fromLayout:
		stamp, err = layoutStamp(t.path)
	default:
		stamp, err = fileStamp(t.path)
	}
	if err != nil {
		return "", pathError(t, err)
	}
	return stamp, nil
}

// pathError words a failure to read t's file or folder, whose own name the
// caller's message begins with.
func pathError(t target, err error) error {
	if isKind(err) {
		return err
	}
	kind := ErrUnsupported
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		kind = ErrNotFound
	}
	var pe *fs.PathError
	if !errors.As(err, &pe) {
		return fail(kind, "%w", err)
	}
	if rel, ok := strings.CutPrefix(pe.Path, t.path+"/"); ok {
		return fail(kind, "%s: %w", rel, pe.Err)
	}
	if pe.Path == t.path {
		return fail(kind, "%w", pe.Err)
	}
	return fail(kind, "%w", err)
}
