// Package erofs turns OCI image layers into EROFS images, without root and
// without external tools.
//
// The work is split so that most of it is done once per layer and shared:
//
//	ConvertLayer / FromDir   tar or folder -> data blob + metadata (once per layer)
//	Merge                    metadata of all layers -> index (once per image)
//	device                   [index][blob 1][blob 2]… as one block device
//
// A blob holds the contents of a layer's files, each starting on a 4 KiB
// block. An index is a complete EROFS file system whose files point into the
// blobs behind it; it has no file data of its own except what is small enough
// to live in its inodes. Blobs are shared by every image that has the layer.
//
// # Address space
//
// The concatenation is an ordinary EROFS image of one device: block addresses
// in inodes count from its start, and the index knows where each blob begins.
// So a file is one extent that needs no map, only its inode of 32 or 64 bytes;
// there is no device table and no feature that Linux 5.4, erofs-utils or
// anybody else would have to know, except chunks (5.15) where a sparse file
// has holes. Which blobs belong behind an index is recorded in front of its
// superblock, in bytes that EROFS leaves to others: see ReadImageInfo.
//
// # Semantics
//
// Layers are applied as the OCI image-layer specification (v1.1) says, in the
// order of their archives' members, and where it is silent, as umoci does:
//
//   - Names are cleaned lexically and confined: "../x" and "/x" are "x".
//   - A parent that is a symbolic link is followed inside the root: absolute
//     targets start at the root and ".." stops there. The last component is
//     never followed.
//   - Missing parents become directories, mode 0755, owner 0:0, with the
//     modification time of the member that needed them.
//   - A parent that is neither directory nor link is an error.
//   - A later member replaces an earlier one of the same name; a directory on
//     a directory changes its metadata and keeps its children.
//   - A hard link names any file present at that moment, of this layer or a
//     lower one; a missing one is an error. Its own metadata is not looked at.
//   - A whiteout hides what lower layers have. What the same layer has put
//     there stays.
//
// The output depends on the input's bytes alone: the same layers give the same
// blob, metadata and index, on every machine.
package erofs

import (
	"errors"
	"io"
)

// BlockSize is the block size of every image, in bytes. Sizes of blobs and of
// indexes are multiples of it.
const BlockSize = 4096

const blockBits = 12

// Sentinel errors, for errors.Is.
var (
	// ErrFormat is the error of a layer archive, metadata file or index that
	// is malformed or that cannot be represented.
	ErrFormat = errors.New("malformed")
	// ErrLimit is the error of input that exceeds a limit of Options.
	ErrLimit = errors.New("limit exceeded")
)

// Options limits what a layer may ask for. The zero value means the defaults.
type Options struct {
	// MaxBytes bounds the uncompressed stream and, separately, the blob.
	// Default 128 GiB.
	MaxBytes int64
	// MaxEntries bounds the members of the archive. Default 2 Mi.
	MaxEntries int
	// MaxFileSize bounds the size of one file, holes included. Default 16 TiB.
	MaxFileSize int64
	// Compressed, if set, returns how many compressed bytes have been consumed
	// so far. It is called on the converting goroutine. Together with MaxRatio
	// it stops decompression bombs.
	Compressed func() int64
	// MaxRatio bounds uncompressed by compressed bytes, once more than 1 GiB
	// has been uncompressed. Default 1100: deflate cannot exceed 1032.
	MaxRatio int64
}

const (
	defaultMaxBytes    = 128 << 30
	defaultMaxEntries  = 2 << 20
	defaultMaxFileSize = 16 << 40
	defaultMaxRatio    = 1100
	ratioFloor         = 1 << 30
)

func (o Options) withDefaults() Options {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = defaultMaxEntries
	}
	if o.MaxFileSize <= 0 {
		o.MaxFileSize = defaultMaxFileSize
	}
	if o.MaxRatio <= 0 {
		o.MaxRatio = defaultMaxRatio
	}
	return o
}

// LayerInfo describes a converted layer.
type LayerInfo struct {
	DiffID        string // SHA-256 of the tar stream in hex, without "sha256:"
	TarBytes      int64  // length of the tar stream
	BlobSize      int64  // bytes written to the blob, a multiple of BlockSize
	MetaSize      int64  // bytes written to the metadata file
	Entries       int    // members of the archive, whiteouts included
	DroppedXattrs int    // attributes EROFS has no name space for (com.apple.…)
}

// LayerSource is one layer of an image, for Merge.
type LayerSource struct {
	Meta io.Reader // what ConvertLayer or FromDir wrote to meta
}

// MergeOptions limits an image. The zero value means the defaults.
type MergeOptions struct {
	MaxInodes int   // default 4 Mi
	MaxMeta   int64 // bytes of metadata of all layers together; default 1 GiB
	MaxIndex  int64 // bytes of the index; default 1 GiB
}

func (o MergeOptions) withDefaults() MergeOptions {
	if o.MaxInodes <= 0 {
		o.MaxInodes = 4 << 20
	}
	if o.MaxMeta <= 0 {
		o.MaxMeta = 1 << 30
	}
	if o.MaxIndex <= 0 {
		o.MaxIndex = 1 << 30
	}
	return o
}

// ImageInfo describes an index and the device it belongs to.
type ImageInfo struct {
	UUID      [16]byte
	IndexSize int64  // bytes of the index, a multiple of BlockSize
	TotalSize int64  // bytes of the device: index and all parts
	Inodes    int64  // files of all kinds, each hard-linked one counted once
	Parts     []Part // blobs behind the index, in order and without gaps
}

// Part is one blob in the device.
type Part struct {
	DiffID string // of the layer, in hex
	Offset int64  // bytes from the start of the device
	Size   int64  // bytes
}
