package main

import (
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/oci"
)

// imageRow is an image as --format shows it: the fields of an [oci.Image], under
// docker's kind of keys, and those that docker has beside.
type imageRow struct {
	ID           oci.Digest // what -q prints
	Repository   string     // <none> where it has no name
	Tag          string     // <none> where the name leads to another image by now, or has none
	Reference    string
	Dangling     bool
	Digest       oci.Digest
	IndexDigest  oci.Digest
	ConfigDigest oci.Digest
	Platform     imagePlatform
	Size         int64     // bytes
	Created      time.Time `json:",omitzero"`
	PulledAt     time.Time
	Config       imageConfig
	Layers       []imageLayer
}

// These have the fields of oci's, whose keys in JSON are those of the store's files.
type (
	imagePlatform struct {
		OS, Architecture string
		Variant          string `json:",omitempty"`
	}
	imageConfig struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		StopSignal   string
		ExposedPorts []string
		Volumes      []string
		Labels       map[string]string
	}
	imageLayer struct {
		Digest    oci.Digest
		DiffID    oci.Digest
		MediaType string
		Size      int64
		Stored    int64
	}
)

// String is what a template makes of {{.Platform}}.
func (p imagePlatform) String() string { return oci.Platform(p).String() }

func newImageRow(img oci.Image) imageRow {
	row := imageRow{
		ID: img.Digest, Reference: img.Reference, Dangling: img.Dangling,
		Digest: img.Digest, IndexDigest: img.IndexDigest, ConfigDigest: img.ConfigDigest,
		Platform: imagePlatform(img.Platform), Size: img.Size, Created: img.Created, PulledAt: img.PulledAt,
		Config: imageConfig(img.Config),
	}
	for _, l := range img.Layers {
		row.Layers = append(row.Layers, imageLayer(l))
	}
	row.Repository, row.Tag = splitName(img)
	return row
}

// none is docker's word for a name or tag that there is not.
const none = "<none>"

// splitName takes the name of an image apart.
func splitName(img oci.Image) (repository, tag string) {
	repository, _, pinned := strings.Cut(img.Reference, "@")
	if img.Dangling && !pinned { // it is a digest alone
		return none, none
	}
	if pinned {
		return repository, none
	}
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		return repository[:i], repository[i+1:]
	}
	return repository, none
}

// imageName is an image's column in a list. The digest of one without a name has a
// column of its own.
func imageName(img oci.Image) string {
	if !img.Dangling {
		return img.Reference
	}
	repository, tag := splitName(img)
	if repository == none {
		return none
	}
	return repository + ":" + tag
}

// imageDetails is what `boxlite image inspect` shows.
type imageDetails struct {
	imageRow
	References []string // all names of it
}

func mergeNames(images []imageDetails, found []oci.Image) []imageDetails {
next:
	for _, img := range found {
		for i := range images {
			if images[i].Digest == img.Digest && images[i].Platform == imagePlatform(img.Platform) {
				images[i].References = append(images[i].References, img.Reference)
				continue next
			}
		}
		images = append(images, imageDetails{newImageRow(img), []string{img.Reference}})
	}
	return images
}
