package oci

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Usage is the space a store takes up, in bytes on disk.
type Usage struct {
	Images []ImageUsage // sorted by reference
	// Total is all that images consist of, each shared layer counted once.
	Total int64
	// Reclaimable is what Prune with All would free of that.
	Reclaimable int64
	// Unfinished is what interrupted and running downloads take up besides.
	Unfinished int64
}

// ImageUsage is an image's part of it.
type ImageUsage struct {
	Image  Image
	Shared int64 // in files that other images have as well
	Unique int64 // in files of this image alone; removing all its names frees them
	Uses   []Use // what depends on it
}

// DiskUsage finds out what takes up how much.
func (s *Store) DiskUsage(ctx context.Context, uses Uses) (Usage, error) {
	u, err := s.diskUsage(ctx, uses)
	if err != nil {
		return Usage{}, fmt.Errorf("oci: sizes of images: %w", err)
	}
	return u, nil
}

func (s *Store) diskUsage(ctx context.Context, uses Uses) (Usage, error) {
	lock, err := s.lockStore(ctx, syscall.LOCK_SH)
	if err != nil {
		return Usage{}, s.diskError(err, 0)
	}
	defer lock.Close()
	used, err := uses.list(ctx)
	if err != nil {
		return Usage{}, err
	}
	images, err := s.images(ctx)
	if err != nil {
		return Usage{}, err
	}
	size := map[string]int64{}
	u := Usage{Unfinished: s.unfinished()}
	if err := s.eachContent(func(name string, info fs.FileInfo) error {
		size[name] = onDisk(info)
		u.Total += size[name]
		return nil
	}); err != nil {
		return Usage{}, err
	}
	keep := map[string]bool{}
	owners := map[string]map[Digest]bool{}
	for i := range images {
		for _, p := range s.imagePaths(images[i]) {
			name := s.rel(p)
			if owners[name] == nil {
				owners[name] = map[Digest]bool{}
			}
			owners[name][images[i].Digest] = true
			keep[name] = keep[name] || len(s.usesOf(used, &images[i])) > 0
		}
	}
	for _, use := range used {
		for _, p := range use.Paths {
			keep[s.rel(p)] = true
		}
	}
	for name, n := range size {
		if !keep[name] {
			u.Reclaimable += n
		}
	}
	for i := range images {
		iu := ImageUsage{Image: images[i], Uses: s.usesOf(used, &images[i])}
		seen := map[string]bool{}
		for _, p := range s.imagePaths(images[i]) {
			name := s.rel(p)
			switch {
			case seen[name]:
			case len(owners[name]) > 1:
				iu.Shared += size[name]
			default:
				iu.Unique += size[name]
			}
			seen[name] = true
		}
		u.Images = append(u.Images, iu)
	}
	return u, nil
}

// unfinished is what the files of downloads and conversions take up.
func (s *Store) unfinished() int64 {
	var n int64
	for _, dir := range []string{partialDir, tmpDir} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				n += onDisk(info)
			}
		}
	}
	return n
}
