package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// dockerManifestFile lists the images of a docker archive (moby's
// image/spec/v1.2, "Combined Image JSON + Filesystem Changeset Format").
const dockerManifestFile = "manifest.json"

type dockerEntry struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// dockerArchive gives an image of a docker archive the form of one from a
// registry: its manifest is made up, with each layer's DiffID for its digest.
type dockerArchive struct {
	files  fileSet
	t      target
	layers map[Digest]string // names in the archive
	config string
	entry  *dockerEntry // the image, if that is known; else t.tag tells
}

// newDockerArchive takes over files.
func newDockerArchive(files fileSet, t target) (source, error) {
	return &dockerArchive{files: files, t: t, layers: map[Digest]string{}}, nil
}

// addressed is false: layers are stored under any name, compressed or not,
// and only what they unpack to has a known digest.
func (a *dockerArchive) addressed() bool { return false }
func (a *dockerArchive) remote() bool    { return false }
func (a *dockerArchive) Close() error    { return a.files.Close() }

func parseDockerManifest(raw []byte) ([]dockerEntry, error) {
	var entries []dockerEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fail(ErrCorrupt, "%s is not valid: %w", dockerManifestFile, err)
	}
	for _, e := range entries {
		switch {
		case e.Config == "":
			return nil, fail(ErrCorrupt, "%s lists an image without config", dockerManifestFile)
		case len(e.Layers) == 0:
			return nil, fail(ErrUnsupported, "image has no layers, so there is nothing to run")
		case len(e.Layers) > maxLayers:
			return nil, fail(ErrUnsupported, "image has %d layers, more than %d are not accepted", len(e.Layers), maxLayers)
		}
	}
	return entries, nil
}

func (a *dockerArchive) top(context.Context) ([]byte, string, error) {
	e, err := a.pick()
	if err != nil {
		return nil, "", err
	}
	rawConfig, err := readSet(a.files, e.Config, maxConfig)
	if err != nil {
		return nil, "", a.missing(e.Config, err)
	}
	cfg, err := parseConfig(rawConfig, len(e.Layers))
	if err != nil {
		return nil, "", err
	}
	a.config = e.Config
	doc := document{SchemaVersion: 2, MediaType: typeOCIManifest, Config: &descriptor{
		MediaType: typeOCIConfig, Digest: digestOf(rawConfig), Size: int64(len(rawConfig)),
	}}
	for i, name := range e.Layers {
		f, size, err := a.files.open(name)
		if err != nil {
			return nil, "", a.missing(name, err)
		}
		f.Close()
		diffID := cfg.RootFS.DiffIDs[i]
		a.layers[diffID] = name
		doc.Layers = append(doc.Layers, descriptor{MediaType: typeOCILayer, Digest: diffID, Size: size})
	}
	raw, err := json.Marshal(doc)
	return raw, typeOCIManifest, err
}

func (a *dockerArchive) pick() (dockerEntry, error) {
	if a.entry != nil {
		return *a.entry, nil
	}
	raw, err := readSet(a.files, dockerManifestFile, maxManifest)
	if err != nil {
		return dockerEntry{}, fmt.Errorf("reading %s: %w", dockerManifestFile, err)
	}
	entries, err := parseDockerManifest(raw)
	if err != nil {
		return dockerEntry{}, err
	}
	return pickEntry(entries, a.t.tag)
}

// pickEntry finds the image called tag, which is a whole name or the tag of
// one; without tag there must be only one image.
func pickEntry(entries []dockerEntry, tag string) (dockerEntry, error) {
	var names []string
	for _, e := range entries {
		for _, n := range e.RepoTags {
			names = append(names, clip(n))
			if tag != "" && (n == tag || strings.HasSuffix(n, ":"+tag) || n == tag+":latest") {
				return e, nil
			}
		}
	}
	switch {
	case len(entries) == 0:
		return dockerEntry{}, fail(ErrNotFound, "the archive lists no images")
	case tag != "":
		return dockerEntry{}, fail(ErrNotFound, "the archive has no image %q, only %s", clip(tag), list(names))
	case len(entries) > 1:
		return dockerEntry{}, fail(ErrReference, "the archive has several images; name one as docker-archive:FILE:NAME: %s", list(names))
	}
	return entries[0], nil
}

func (a *dockerArchive) manifest(_ context.Context, d descriptor) ([]byte, error) {
	return nil, fail(ErrNotFound, "a docker archive has no manifest %s", d.Digest)
}

func (a *dockerArchive) blob(_ context.Context, d descriptor, off int64) (io.ReadCloser, error) {
	name, ok := a.layers[d.Digest]
	if !ok {
		name = a.config
	}
	f, _, err := a.files.open(name)
	if err != nil {
		return nil, a.missing(name, err)
	}
	if _, err := io.CopyN(io.Discard, f, off); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (a *dockerArchive) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrCorrupt, "the archive lacks %s, which its %s names", clip(name), dockerManifestFile)
	}
	return err
}
