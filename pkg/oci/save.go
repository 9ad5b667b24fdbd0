package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/oci/erofs"
	"github.com/google/go-containerregistry/pkg/name"
)

// Formats of Save.
const (
	FormatOCI    = "oci-archive"    // a tar of an OCI image layout
	FormatDocker = "docker-archive" // what `docker save` has always written
)

// SaveOptions of one Save. The zero value is usable.
type SaveOptions struct {
	Format string // FormatOCI (the default) or FormatDocker
	// Platform of the images. One that is not there for it is ErrPlatform. Zero means
	// the store's where an image is there for several, else the only one.
	Platform Platform
	// Progress as in PullOptions. Each layer is read twice: first to learn
	// its digest, which the archive needs before the layer itself.
	Progress func(Event)
}

// Save writes images, named as in Find, to an archive that Load, and other
// tools, can read. The layers are written anew from what the store keeps,
// uncompressed and with all that the originals had in them, but not with the
// same bytes: the saved image has other digests, its own manifest and a config
// with its own layer digests. The same image always gives the same archive.
func (s *Store) Save(ctx context.Context, w io.Writer, keys []string, o SaveOptions) error {
	if o.Format == "" {
		o.Format = FormatOCI
	}
	if o.Format != FormatOCI && o.Format != FormatDocker {
		return fail(ErrUnsupported, "oci: %q is not a format of archives: choose %s or %s", clip(o.Format), FormatOCI, FormatDocker)
	}
	return s.save(ctx, w, keys, o)
}

func (s *Store) save(ctx context.Context, w io.Writer, keys []string, o SaveOptions) error {
	keep, err := s.newLease()
	if err != nil {
		return err
	}
	defer keep.drop()
	e := &export{s: s, ctx: ctx, layers: map[Digest]*exportLayer{}}
	for _, key := range keys {
		img, names, err := s.choice(ctx, key, o.Platform)
		if err != nil {
			return err
		}
		if err := keep.add(ctx, s.imagePaths(img)...); err != nil {
			return err
		}
		if _, err := s.layerParts(img); err != nil { // it may have been removed just before
			return keyError("saving ", img.Reference, err)
		}
		e.ev = newEvents(o.Progress, img.Reference)
		if err := e.add(img, names); err != nil {
			return keyError("saving ", img.Reference, err)
		}
	}
	a := archive{tw: tar.NewWriter(w), done: map[string]bool{}}
	if o.Format == FormatDocker {
		err = e.writeDocker(&a)
	} else {
		err = e.writeLayout(&a)
	}
	if err == nil { // or half an archive would look like a whole one
		err = a.tw.Close()
	}
	if err != nil {
		return fmt.Errorf("oci: saving images: %w", err)
	}
	return nil
}

// choice is the image that key means, for a platform, and the names it goes by. Of no
// platform it is the one that suits the store best.
func (s *Store) choice(ctx context.Context, key string, p Platform) (Image, []string, error) {
	found, err := s.Find(ctx, key)
	if err != nil {
		return Image{}, nil, err
	}
	asked := !p.isZero()
	if !asked {
		p = s.opts.Platform
	}
	img := slices.MaxFunc(found, func(a, b Image) int { return p.score(a.Platform) - p.score(b.Platform) })
	if asked && p.score(img.Platform) == 0 {
		var offers []Platform
		for _, f := range found {
			offers = append(offers, f.Platform)
		}
		return Image{}, nil, keyError("", key, fail(ErrPlatform, "image is not available for %s, only for %s", p, platformList(offers)))
	}
	var names []string
	for _, f := range found {
		if n, ok := tagged(f.Reference); ok && f.Digest == img.Digest {
			names = append(names, n)
		}
	}
	return img, names, nil
}

// tagged returns a reference that names an image elsewhere too: a tag of a
// registry.
func tagged(ref string) (string, bool) {
	t, err := parseReference(ref, nil, nil)
	if err != nil || t[0].kind != fromRegistry {
		return "", false
	}
	_, ok := t[0].ref.(name.Tag)
	return t[0].String(), ok
}

// export is a set of images on their way into an archive.
type export struct {
	s      *Store
	ctx    context.Context
	ev     *events
	images []*exportImage
	layers map[Digest]*exportLayer // by DiffID in the store
}

type exportImage struct {
	names    []string
	config   []byte
	manifest []byte
	platform Platform
	layers   []*exportLayer
}

// exportLayer is a layer in the form that it has in the archive.
type exportLayer struct {
	from Digest // DiffID in the store
	to   Digest
	size int64
}

func (e *export) add(img Image, names []string) error {
	x := &exportImage{names: names, platform: img.Platform}
	var diffIDs []Digest
	for _, l := range img.Layers {
		el := e.layers[l.DiffID]
		if el == nil {
			el = &exportLayer{from: l.DiffID}
			h := sha256.New()
			n, err := e.write(el, h, Extracting, l.Stored)
			if err != nil {
				return err
			}
			el.to, el.size = digestSum(h), n
			e.layers[l.DiffID] = el
		}
		x.layers = append(x.layers, el)
		diffIDs = append(diffIDs, el.to)
	}
	raw, ok := e.s.readBlob(img.ConfigDigest, maxConfig)
	if !ok {
		return fail(ErrNotFound, "its config is not in the image store; pull the image again")
	}
	var err error
	if x.config, err = withDiffIDs(raw, diffIDs); err != nil {
		return err
	}
	doc := document{SchemaVersion: 2, MediaType: typeOCIManifest, Config: &descriptor{
		MediaType: typeOCIConfig, Digest: digestOf(x.config), Size: int64(len(x.config)),
	}}
	for _, l := range x.layers {
		doc.Layers = append(doc.Layers, descriptor{MediaType: typeOCILayer, Digest: l.to, Size: l.size})
	}
	if x.manifest, err = json.Marshal(doc); err != nil {
		return err
	}
	for _, old := range e.images {
		if bytes.Equal(old.manifest, x.manifest) {
			old.names = append(old.names, names...)
			return nil
		}
	}
	e.images = append(e.images, x)
	return nil
}

// withDiffIDs gives an image config other layers. The rest of it stays, also
// what this package knows nothing of; a config that is right already stays byte
// for byte.
func withDiffIDs(raw []byte, ids []Digest) ([]byte, error) {
	cfg, err := parseConfig(raw, len(ids))
	if err != nil {
		return nil, err
	}
	if slices.Equal(cfg.RootFS.DiffIDs, ids) {
		return raw, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	for k := range all { // names of fields are not case sensitive to this package's reader
		if strings.EqualFold(k, "rootfs") {
			delete(all, k)
		}
	}
	if all["rootfs"], err = json.Marshal(map[string]any{"type": "layers", "diff_ids": ids}); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// write writes a layer as a tar, and returns its length. total is for progress.
func (e *export) write(l *exportLayer, w io.Writer, state State, total int64) (int64, error) {
	meta, err := os.Open(e.s.layerMeta(l.from))
	if err != nil {
		return 0, err
	}
	defer meta.Close()
	blob, err := os.Open(e.s.layerBlob(l.from))
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	cw := &countingWriter{w: w, each: func(n int64) { e.ev.send(l.from, state, min(n, total), total) }}
	skipped, err := erofs.WriteTar(e.ctx, meta, blob, cw)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.from, err)
	}
	if skipped > 0 {
		e.s.log.Warn("image export: sockets left out", "layer", l.from, "sockets", skipped)
	}
	return cw.n, nil
}

type countingWriter struct {
	w    io.Writer
	n    int64
	each func(int64)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.each(c.n)
	return n, err
}

// archive writes members, each name once.
type archive struct {
	tw   *tar.Writer
	done map[string]bool
}

func (a *archive) begin(name string, size int64) (fresh bool, err error) {
	if a.done[name] {
		return false, nil
	}
	a.done[name] = true
	return true, a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (a *archive) file(name string, b []byte) error {
	fresh, err := a.begin(name, int64(len(b)))
	if err == nil && fresh {
		_, err = a.tw.Write(b)
	}
	return err
}

func (e *export) writeLayer(a *archive, name string, l *exportLayer) error {
	fresh, err := a.begin(name, l.size)
	if err != nil || !fresh {
		return err
	}
	_, err = e.write(l, a.tw, Writing, l.size)
	e.ev.send(l.from, Done, l.size, l.size)
	return err
}

func (e *export) writeLayout(a *archive) error {
	index := document{SchemaVersion: 2, MediaType: typeOCIIndex}
	for _, x := range e.images {
		d := descriptor{MediaType: typeOCIManifest, Digest: digestOf(x.manifest), Size: int64(len(x.manifest)), Platform: &x.platform}
		if len(x.names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		for _, n := range x.names {
			// The whole name for both kinds of readers, as podman has it.
			d.Annotations = map[string]string{refName: n, fullName: n}
			index.Manifests = append(index.Manifests, d)
		}
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := a.file(layoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := a.file(indexFile, raw); err != nil {
		return err
	}
	for _, x := range e.images {
		for _, b := range [][]byte{x.manifest, x.config} {
			if err := a.file(blobName(digestOf(b)), b); err != nil {
				return err
			}
		}
		for _, l := range x.layers {
			if err := e.writeLayer(a, blobName(l.to), l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *export) writeDocker(a *archive) error {
	var entries []dockerEntry
	for _, x := range e.images {
		entry := dockerEntry{Config: digestOf(x.config).Hex() + ".json", RepoTags: []string{}}
		for _, n := range x.names { // docker lists its own images by their short names
			n = strings.TrimPrefix(n, dockerIO+"/")
			entry.RepoTags = append(entry.RepoTags, strings.TrimPrefix(n, "library/"))
		}
		for _, l := range x.layers {
			entry.Layers = append(entry.Layers, l.to.Hex()+".tar")
		}
		entries = append(entries, entry)
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if err := a.file(dockerManifestFile, raw); err != nil {
		return err
	}
	for i, x := range e.images {
		if err := a.file(entries[i].Config, x.config); err != nil {
			return err
		}
		for _, l := range x.layers {
			if err := e.writeLayer(a, l.to.Hex()+".tar", l); err != nil {
				return err
			}
		}
	}
	return nil
}
