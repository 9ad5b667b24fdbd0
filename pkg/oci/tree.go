package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/anthropics/boxlite/pkg/oci/erofs"
)

// importTree makes an image of one layer from a folder tree, with the owners,
// modes and attributes it has there.
func (s *Store) importTree(ctx context.Context, t target, want Platform, stamp string, keep *lease, ev *events) (Image, error) {
	lock, err := lockWait(ctx, s.partialPath(digestOf([]byte(stamp))), func() { ev.send("", Waiting, 0, 0) })
	if err != nil {
		return Image{}, s.diskError(err, 0)
	}
	defer lock.Close()
	defer os.Remove(lock.Name())
	ev.send("", Extracting, 0, 0)
	blob, err := s.newTemp()
	if err != nil {
		return Image{}, s.diskError(err, 0)
	}
	defer dropTemp(blob)
	meta, err := s.newTemp()
	if err != nil {
		return Image{}, s.diskError(err, 0)
	}
	defer dropTemp(meta)
	info, err := erofs.FromDir(ctx, t.path, blob, meta, erofs.Options{MaxBytes: s.opts.MaxLayer})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return Image{}, context.Cause(ctx)
	case isNoSpace(err):
		return Image{}, s.diskError(err, 0)
	default:
		return Image{}, pathError(t, err)
	}
	layer := Layer{
		DiffID: Digest(digestPrefix + info.DiffID), MediaType: typeOCILayer,
		Stored: info.BlobSize + info.MetaSize,
	}
	layer.Digest, layer.Size = layer.DiffID, layer.Stored // there is no tar to measure
	img, blobs, err := s.treeImage(layer, want)
	if err != nil {
		return Image{}, err
	}
	if err := keep.add(ctx, s.imagePaths(img)...); err != nil {
		return Image{}, err
	}
	if _, ok := s.haveLayer(layer.DiffID); !ok {
		if err := publish(meta, s.layerMeta(layer.DiffID)); err != nil {
			return Image{}, s.diskError(err, 0)
		}
		if err := publish(blob, s.layerBlob(layer.DiffID)); err != nil {
			return Image{}, s.diskError(err, 0)
		}
	}
	for _, b := range blobs {
		if err := s.writeFile(s.blobPath(digestOf(b)), b); err != nil {
			return Image{}, err
		}
	}
	return img, nil
}

// treeImage gives the layer a config and a manifest, as every image has.
func (s *Store) treeImage(layer Layer, p Platform) (img Image, blobs [][]byte, err error) {
	cfg := map[string]any{
		"architecture": p.Architecture, "os": p.OS, "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []Digest{layer.DiffID}},
	}
	if p.Variant != "" {
		cfg["variant"] = p.Variant
	}
	rawConfig, err := json.Marshal(cfg)
	if err != nil {
		return Image{}, nil, err
	}
	raw, err := json.Marshal(document{
		SchemaVersion: 2, MediaType: typeOCIManifest,
		Config: &descriptor{MediaType: typeOCIConfig, Digest: digestOf(rawConfig), Size: int64(len(rawConfig))},
		Layers: []descriptor{{MediaType: typeOCILayer, Digest: layer.Digest, Size: layer.Size}},
	})
	if err != nil {
		return Image{}, nil, err
	}
	return Image{
		Digest: digestOf(raw), IndexDigest: digestOf(raw), ConfigDigest: digestOf(rawConfig),
		Platform: p, Size: layer.Stored, Layers: []Layer{layer},
	}, [][]byte{rawConfig, raw}, nil
}

// treeStamp changes whenever anything of a folder tree that would enter the
// image does: times of change (ctime) cannot be set back by a user.
func treeStamp(ctx context.Context, root string) (string, error) {
	if st, err := os.Stat(root); err != nil {
		return "", err
	} else if !st.IsDir() {
		return "", &fs.PathError{Op: "open", Path: root, Err: syscall.ENOTDIR}
	}
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since its folder was read
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %s\n", rel, statText(st))
		return nil
	})
	if err != nil {
		return "", err
	}
	return "tree " + string(digestSum(h)), nil
}
