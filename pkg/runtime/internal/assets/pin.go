package assets

// What this version was released with: the artifact that holds its kernels and
// initramfs, one manifest per architecture. Written by `make pin`; a tree
// between releases has no digest here, and a program built from it without
// kernel inside pulls nothing by itself.
const (
	PinVersion    = "dev"
	PinRepository = ""
	PinDigest     = ""
)
