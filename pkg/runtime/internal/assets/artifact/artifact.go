// Package artifact makes the OCI artifact that kernel and initramfs of a release
// are distributed as: an image layout with one index, and in that a manifest per
// architecture with the two files, compressed as they are built in. The same
// files give the same bytes, so that the digest can be known before anything is
// pushed, and whoever builds the release again can compare.
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Media types (OCI image-spec 1.1, manifest.md "Guidelines for Artifact Usage").
const (
	Type          = "application/vnd.boxlite.kernel.v1"
	KernelType    = "application/vnd.boxlite.kernel.vmlinux.v1+zstd"
	InitramfsType = "application/vnd.boxlite.kernel.initramfs.v1.cpio+zstd"

	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	emptyType    = "application/vnd.oci.empty.v1+json"
)

// Annotations.
const (
	VersionKey = "org.opencontainers.image.version"
	titleKey   = "org.opencontainers.image.title"
	// SumKey is the SHA-256, in hex, of a file when it is unpacked.
	SumKey = "dev.boxlite.unpacked.sha256"
	// SourceKey is the SHA-256, in hex, of the kernel's configuration.
	SourceKey = "dev.boxlite.kernel.config.sha256"
)

// File is a compressed asset.
type File struct {
	Zstd []byte
	Sum  string // SHA-256 of what it unpacks to, in hex
}

// Build is what a release has for one architecture.
type Build struct {
	Arch              string // as GOARCH has it
	Kernel, Initramfs File
	Source            string // for SourceKey; may be empty
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *platform         `json:"platform,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// WriteLayout writes the artifact of a version into the folder dir, which is
// made, and returns the digest of its index ("sha256:…").
func WriteLayout(dir, version string, builds []Build) (digest string, err error) {
	if len(builds) == 0 {
		return "", errors.New("an artifact without any kernel")
	}
	builds = slices.Clone(builds)
	slices.SortFunc(builds, func(a, b Build) int { return strings.Compare(a.Arch, b.Arch) })
	w := &writer{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return "", err
	}
	about := map[string]string{VersionKey: version}
	index := document{SchemaVersion: 2, MediaType: indexType, ArtifactType: Type, Annotations: about}
	for _, b := range builds {
		notes := map[string]string{VersionKey: version}
		if b.Source != "" {
			notes[SourceKey] = b.Source
		}
		config := w.blob(emptyType, []byte("{}"))
		m := w.json(manifestType, document{
			SchemaVersion: 2, MediaType: manifestType, ArtifactType: Type, Config: &config, Annotations: notes,
			Layers: []descriptor{w.file(KernelType, "vmlinux", b.Kernel), w.file(InitramfsType, "initramfs.cpio", b.Initramfs)},
		})
		m.ArtifactType, m.Platform = Type, &platform{Architecture: b.Arch, OS: "linux"}
		index.Manifests = append(index.Manifests, m)
	}
	top := w.json(indexType, index)
	top.Annotations = map[string]string{"org.opencontainers.image.ref.name": version}
	list, err := json.Marshal(document{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{top}})
	if err != nil {
		return "", err
	}
	w.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	w.write("index.json", list)
	return top.Digest, w.err
}

type writer struct {
	dir string
	err error
}

func (w *writer) write(name string, b []byte) {
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.dir, name), b, 0o644)
	}
}

func (w *writer) blob(mediaType string, b []byte) descriptor {
	sum := sha256.Sum256(b)
	hash := hex.EncodeToString(sum[:])
	w.write(filepath.Join("blobs", "sha256", hash), b)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hash, Size: int64(len(b))}
}

func (w *writer) json(mediaType string, doc document) descriptor {
	b, err := json.Marshal(doc)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("encoding a manifest: %w", err)
	}
	return w.blob(mediaType, b)
}

func (w *writer) file(mediaType, title string, f File) descriptor {
	d := w.blob(mediaType, f.Zstd)
	d.Annotations = map[string]string{titleKey: title, SumKey: f.Sum}
	return d
}
