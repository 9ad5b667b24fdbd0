package oci

import "time"

// Image is an image of the store: which it is, how it wants to be run, and
// the layers its file system is made of. It is plain data.
type Image struct {
	// Reference is the normalised name the image was pulled by, such as
	// "docker.io/library/alpine:latest" or "oci:/srv/images:web".
	Reference string `json:"reference"`
	// Dangling is true of an image that no name leads to any more: its tag
	// means another by now, or it came from an archive without a name.
	// Reference then has its digest.
	Dangling bool `json:"dangling,omitempty"`
	// Digest is the image manifest's; IndexDigest is that of what the
	// reference named, which differs when it named a multi-platform index.
	Digest       Digest   `json:"digest"`
	IndexDigest  Digest   `json:"indexDigest"`
	ConfigDigest Digest   `json:"configDigest"`
	Platform     Platform `json:"platform"`
	// Size is the bytes the image's layers take up in the store, those it
	// shares with other images included.
	Size     int64     `json:"size"`
	Created  time.Time `json:"created,omitzero"`
	PulledAt time.Time `json:"pulledAt"`
	Config   Config    `json:"config"`
	// Layers are in order of application: the base comes first.
	Layers []Layer `json:"layers"`
}

// Layer is one layer of an image.
type Layer struct {
	// Digest is that of the blob as distributed (compressed), DiffID that
	// of the tar inside, by which the store shares layers between images.
	Digest    Digest `json:"digest"`
	DiffID    Digest `json:"diffID"`
	MediaType string `json:"mediaType"`
	// Size is the bytes of the blob as distributed, Stored the bytes of
	// what it was turned into.
	Size   int64 `json:"size"`
	Stored int64 `json:"stored"`
}

// Config is how an image wants to be run (OCI image-spec, config.md).
type Config struct {
	User         string            `json:"user,omitempty"`
	Env          []string          `json:"env,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // "80/tcp", sorted
	Volumes      []string          `json:"volumes,omitempty"`      // sorted
	Labels       map[string]string `json:"labels,omitempty"`
}

// Rootfs is an image's file system: files to be shown to the guest as one
// block device, one after the other in this order.
type Rootfs struct {
	Parts []Part
}

// Part is a range of a file. The file never changes while it exists.
type Part struct {
	Path           string
	Offset, Length int64
}

// Size is the bytes of the block device that the parts make up.
func (r Rootfs) Size() int64 {
	var n int64
	for _, p := range r.Parts {
		n += p.Length
	}
	return n
}
