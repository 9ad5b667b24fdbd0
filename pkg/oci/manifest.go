package oci

import (
	"encoding/json"
	"mime"
	"slices"
	"sort"
	"strings"
	"time"
)

// Limits on what a source may make us read into memory or remember. Registries
// refuse manifests above 4 MiB (OCI distribution-spec 1.1, "Pushing manifests").
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxLayers   = 256 // docker builds at most 127
	// maxBlob is far above any real layer and keeps sums inside an int64.
	maxBlob = 1 << 46
)

// Media types (OCI image-spec 1.1, media-types.md; docker's image manifest V2
// schema 2).
const (
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	typeOCILayer       = "application/vnd.oci.image.layer.v1.tar"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	typeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeDockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

var manifestTypes = []string{typeOCIIndex, typeOCIManifest, typeDockerList, typeDockerManifest}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      Digest            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// document is an image manifest or an index: the fields of both, because
// which it is must be judged from what is there.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
	FSLayers      []any        `json:"fsLayers,omitempty"` // schema 1

	Annotations map[string]string `json:"annotations,omitempty"`
}

func (d *document) isIndex() bool {
	return d.MediaType == typeOCIIndex || d.MediaType == typeDockerList
}

// parseDocument decodes and checks a manifest or index. claimed is the media
// type its source gives it; it may be empty or as vague as application/json.
func parseDocument(raw []byte, claimed string) (*document, error) {
	if len(raw) > maxManifest {
		return nil, fail(ErrUnsupported, "manifest of %d bytes, more than %d are not accepted", len(raw), maxManifest)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fail(ErrCorrupt, "manifest is not valid: %w", err)
	}
	claimed = plainType(claimed)
	if claimed == typeDockerSchema1 || claimed == typeDockerSigned1 || d.SchemaVersion == 1 || d.FSLayers != nil {
		return nil, fail(ErrUnsupported, "image has a docker schema 1 manifest, a format withdrawn in 2017: push it again with a current docker")
	}
	if d.SchemaVersion != 2 {
		return nil, fail(ErrUnsupported, "manifest has schemaVersion %d, not 2", d.SchemaVersion)
	}
	// A document that reads both ways means different images to different
	// readers (CVE-2021-41190): refuse it whatever it calls itself.
	if d.Manifests != nil && (d.Config != nil || d.Layers != nil) {
		return nil, fail(ErrUnsupported, "manifest is ambiguous: it has both layers and manifests")
	}
	known := slices.Contains(manifestTypes, claimed)
	switch {
	case d.MediaType != "" && !slices.Contains(manifestTypes, d.MediaType):
		return nil, fail(ErrUnsupported, "media type %q is neither an image manifest nor an index", clip(d.MediaType))
	case known && d.MediaType != "" && d.MediaType != claimed:
		return nil, fail(ErrCorrupt, "manifest calls itself %q, its source calls it %q", d.MediaType, claimed)
	case d.MediaType != "":
	case known:
		d.MediaType = claimed
	case claimed != "" && !vagueType(claimed):
		return nil, fail(ErrUnsupported, "media type %q is neither an image manifest nor an index", clip(claimed))
	case d.Manifests != nil:
		d.MediaType = typeOCIIndex
	default:
		d.MediaType = typeOCIManifest
	}
	if d.isIndex() {
		return &d, d.checkIndex()
	}
	return &d, d.checkManifest()
}

func (d *document) checkIndex() error {
	if d.Config != nil || d.Layers != nil {
		return fail(ErrUnsupported, "index has layers of its own")
	}
	for i := range d.Manifests {
		if err := d.Manifests[i].check(maxManifest); err != nil {
			return fail(ErrUnsupported, "index entry %d: %w", i, err)
		}
	}
	return nil
}

func (d *document) checkManifest() error {
	if d.Manifests != nil {
		return fail(ErrUnsupported, "image manifest lists other manifests")
	}
	if d.Config == nil {
		return fail(ErrUnsupported, "manifest has no config")
	}
	if t := d.Config.MediaType; t != typeOCIConfig && t != typeDockerConfig {
		return fail(ErrUnsupported, "not a container image: its config is of type %q", clip(t))
	}
	if err := d.Config.check(maxConfig); err != nil {
		return fail(ErrUnsupported, "config: %w", err)
	}
	if len(d.Layers) == 0 {
		return fail(ErrUnsupported, "image has no layers, so there is nothing to run")
	}
	if len(d.Layers) > maxLayers {
		return fail(ErrUnsupported, "image has %d layers, more than %d are not accepted", len(d.Layers), maxLayers)
	}
	for i := range d.Layers {
		l := &d.Layers[i]
		if err := l.check(maxBlob); err != nil {
			return fail(ErrUnsupported, "layer %d: %w", i+1, err)
		}
		if err := checkLayerType(l.MediaType); err != nil {
			return fail(ErrUnsupported, "layer %d: %w", i+1, err)
		}
	}
	return nil
}

func (d *descriptor) check(maxSize int64) error {
	if d.Digest == "" {
		return fail(ErrUnsupported, "has no digest")
	}
	if d.Size < 0 || d.Size > maxSize {
		return fail(ErrUnsupported, "has a size of %d bytes, not 0 to %d", d.Size, maxSize)
	}
	return nil
}

// checkLayerType accepts tar layers. How one is compressed is seen from its
// first bytes when it arrives, because builders are known to misname it; the
// digests of both forms are checked in any case.
func checkLayerType(t string) error {
	if strings.Contains(t, "nondistributable") || strings.Contains(t, ".foreign.") {
		return fail(ErrUnsupported, "is a foreign (non-distributable) layer of type %q, which no registry serves; "+
			"rebuild the image from a base whose layers are distributable", clip(t))
	}
	base, compression, _ := strings.Cut(t, "+")
	if t := strings.TrimSuffix(base, ".gzip"); t != base {
		base, compression = t, "gzip"
	} else if t := strings.TrimSuffix(base, ".zstd"); t != base {
		base, compression = t, "zstd"
	}
	if base != typeOCILayer && base != typeDockerLayer {
		return fail(ErrUnsupported, "media type %q is not a file system layer", clip(t))
	}
	switch compression {
	case "", "gzip", "zstd":
		return nil
	}
	return fail(ErrUnsupported, "compression %q is not supported (gzip, zstd, none)", clip(compression))
}

func plainType(t string) string {
	if m, _, err := mime.ParseMediaType(t); err == nil {
		return m
	}
	return t
}

// vagueType: static file servers call every manifest one of these.
func vagueType(t string) bool {
	return t == "application/json" || t == "application/octet-stream" || t == "text/plain" || t == "binary/octet-stream"
}

// imageConfig is the config blob (OCI image-spec, config.md).
type imageConfig struct {
	Created string `json:"created"`
	Platform
	Config struct {
		User         string         `json:"User"`
		Env          []string       `json:"Env"`
		Entrypoint   words          `json:"Entrypoint"`
		Cmd          words          `json:"Cmd"`
		WorkingDir   string         `json:"WorkingDir"`
		StopSignal   string         `json:"StopSignal"`
		ExposedPorts map[string]any `json:"ExposedPorts"`
		Volumes      map[string]any `json:"Volumes"`
		Labels       map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// words is a command: a list, or a single string as docker once wrote it.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*w = nil
		if one != "" {
			*w = words{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// parseConfig decodes a config blob and checks it against the number of
// layers its manifest has.
func parseConfig(raw []byte, layers int) (*imageConfig, error) {
	if len(raw) > maxConfig {
		return nil, fail(ErrUnsupported, "config of %d bytes, more than %d are not accepted", len(raw), maxConfig)
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fail(ErrCorrupt, "image config is not valid: %w", err)
	}
	if t := c.RootFS.Type; t != "" && t != "layers" {
		return nil, fail(ErrUnsupported, "image config has a root file system of type %q, not layers", clip(t))
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return nil, fail(ErrCorrupt, "image config names %d layers, the manifest %d", n, layers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d == "" {
			return nil, fail(ErrCorrupt, "image config has an empty layer digest")
		}
	}
	for _, s := range slices.Concat(c.Config.Env, []string(c.Config.Entrypoint), []string(c.Config.Cmd),
		[]string{c.Config.User, c.Config.WorkingDir, c.Config.StopSignal}) {
		if strings.ContainsRune(s, 0) {
			return nil, fail(ErrUnsupported, "image config has a NUL byte in its environment, command, user or folder")
		}
	}
	return &c, nil
}

func (c *imageConfig) public() Config {
	return Config{
		User: c.Config.User, Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
		WorkingDir: c.Config.WorkingDir, StopSignal: c.Config.StopSignal,
		ExposedPorts: sortedKeys(c.Config.ExposedPorts), Volumes: sortedKeys(c.Config.Volumes),
		Labels: c.Config.Labels,
	}
}

// created is the zero time where the image states none or nonsense.
func (c *imageConfig) created() time.Time {
	t, err := time.Parse(time.RFC3339Nano, c.Created)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
