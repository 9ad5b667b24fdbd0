// Package oci gets container images and keeps them ready to boot from.
//
// A [Store] is a folder that any number of processes use at once. Pull brings
// an image in from a registry, an OCI image layout, a docker or OCI archive or
// a plain folder tree; Resolve finds one that is there; Rootfs names the files
// that together are its root file system, to be shown to a guest as one
// read-only block device holding EROFS. The package knows no virtual machine.
//
// # References
//
//	alpine, user/app:tag, host[:port]/name[:tag][@sha256:...]   registry
//	oci:DIR[:TAG], or a path of a folder with an OCI layout     image layout
//	docker-archive:FILE[:REF], oci-archive:FILE[:TAG],
//	archive:FILE[:REF], or a path of such a file                tar archive
//	dir:DIR                                                     folder tree
//
// A path begins with "/", "./" or "../": a bare word is always a registry
// name, so that a folder that happens to be called alpine does not replace the
// image. Short names are looked for in each of Options.Registries in order.
//
// # Layout of a store
//
//	blobs/<sha256>      manifests, indexes and configs, byte for byte
//	layers/             one EROFS blob per layer, named by DiffID
//	rootfs/             one small merged index per stack of layers
//	refs/<sha256>.json  one per reference and platform: the Image record
//	partial/<sha256>    downloads under way, named by blob digest
//	tmp/                files being written
//	leases/             one per pull or export under way: the files it counts on
//	lock                held while files are removed, see Store.Hold
//
// Images are counted by reference: what no record, lease or box names is removed
// by Remove and Prune.
//
// Content is named by its digest, is put in place whole by rename after fsync,
// and never changes afterwards. A record is written last, so what it names is
// there. Readers take no lock. Who fetches a layer holds an flock on its file
// in partial/ and nothing else; others wait for it and use the result. What a
// killed process leaves is continued (partial/) or removed (tmp/) by the next
// pull. Layers are converted while they arrive; the compressed blobs are not
// kept, which halves the space, so exporting an image writes its layers anew.
package oci

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Options of a store. The zero value is usable.
type Options struct {
	// Registries are tried in order for names without a registry; empty
	// means docker.io. An entry may have a path: "ghcr.io/team".
	Registries []string
	// Insecure lists host[:port] of registries that may be spoken to over
	// http or with an unverified certificate. Loopback always may.
	Insecure []string
	// Keychain finds credentials; nil means docker's config.json with its
	// credential helpers, or else podman's auth.json.
	Keychain authn.Keychain
	// Platform to pull for; zero means DefaultPlatform.
	Platform Platform
	// Jobs is how many layers are fetched at once; 0 means 4.
	Jobs int
	// StallTimeout is how long a registry may send nothing before the
	// request is given up and tried again; 0 means 60 s. There is no limit
	// on the whole of a pull: progress is watched, not time.
	StallTimeout time.Duration
	// Retries is how often in a row a request may fail without getting
	// anywhere; 0 means 5, less than 0 means not to try again. RetryDelay
	// is the pause before the first repetition, doubled each time up to
	// 10 s; 0 means 250 ms.
	Retries    int
	RetryDelay time.Duration
	// MaxLayer bounds the bytes one layer may unpack to; 0 means 128 GiB.
	MaxLayer int64
	// Log receives warnings; nil means none.
	Log *slog.Logger
}

// Store is an image store. Its methods may be called from any goroutine.
type Store struct {
	root      string
	opts      Options
	log       *slog.Logger
	insecure  map[string]bool
	freeSpace func() int64 // tests replace it
}

// Open opens the store at root, a folder that is created if need be. It reads
// nothing and takes no lock; there is nothing to close.
func Open(root string, opts Options) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("oci: image store %s: %w", root, err)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Platform.isZero() {
		opts.Platform = DefaultPlatform()
	}
	if opts.Jobs <= 0 {
		opts.Jobs = 4
	}
	if opts.StallTimeout <= 0 {
		opts.StallTimeout = time.Minute
	}
	if opts.Retries == 0 {
		opts.Retries = 5
	}
	if opts.RetryDelay <= 0 {
		opts.RetryDelay = 250 * time.Millisecond
	}
	if opts.MaxLayer <= 0 {
		opts.MaxLayer = 128 << 30
	}
	s := &Store{root: abs, opts: opts, log: opts.Log, insecure: map[string]bool{}}
	for _, h := range opts.Insecure {
		s.insecure[strings.ToLower(h)] = true
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("oci: creating the image store: %w", err)
	}
	for _, d := range []string{blobsDir, layersDir, rootfsDir, refsDir, partialDir, tmpDir, leasesDir} {
		if err := os.Mkdir(s.path(d), 0o755); err != nil && !os.IsExist(err) {
			return nil, fmt.Errorf("oci: creating the image store: %w", err)
		}
	}
	return s, nil
}

// Resolve finds an image that is in the store, without using the network. For
// a reference to a file or folder that has changed since it was imported, and
// for an image that is incomplete, the error is ErrNotFound.
func (s *Store) Resolve(ctx context.Context, ref string) (Image, error) {
	targets, err := s.parse(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.find(ctx, ref, targets, s.opts.Platform, "")
	if err != nil {
		return Image{}, fmt.Errorf("oci: looking up %s: %w", clip(ref), err)
	}
	return img, nil
}

func (s *Store) isInsecure(host string) bool { return s.insecure[strings.ToLower(host)] }

// lookupAny returns the first of targets that the store has.
func (s *Store) lookupAny(ctx context.Context, targets []target, p Platform) (Image, error) {
	for _, t := range targets {
		stamp, err := s.stamp(ctx, t)
		if err != nil {
			return Image{}, fmt.Errorf("%s: %w", t, err)
		}
		if img, ok := s.lookup(t, p, stamp); ok {
			return img, nil
		}
	}
	return Image{}, fail(ErrNotFound, "%s is not in the image store", targets[0])
}
