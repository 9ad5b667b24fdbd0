package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// FromDir converts a prepared root folder as if it were the only layer of an
// image: owners, modes, times, extended attributes, hard links, devices and
// sockets as found. It needs no root, only the right to read every file; what
// cannot be read is an error that names it.
//
// Symbolic links are recorded, never followed, whatever somebody does to the
// folder meanwhile: each name is opened relative to its parent's descriptor.
// Other file systems mounted inside are converted as well. Names that begin
// with ".wh." are ordinary names here.
//
// LayerInfo.DiffID is a digest of metadata and contents, which takes the part
// of a layer's: equal folders have equal ones.
func FromDir(ctx context.Context, path string, blob, meta io.Writer, opts Options) (LayerInfo, error) {
	opts = opts.withDefaults()
	sum := sha256.New()
	d := &dirConverter{
		ctx:  ctx,
		opts: opts,
		sum:  sum,
		blob: newBlobWriter(io.MultiWriter(blob, sum), opts.MaxBytes),
		seen: make(map[fileID]string),
		buf:  make([]byte, 256<<10),
	}
	// The digest covers blob and records; the trailer, which holds it, not.
	d.meta = newMetaWriter(&tee{w: meta, sum: sum, open: &d.digesting})
	d.digesting = true
	if err := d.root(path); err != nil {
		return LayerInfo{}, fmt.Errorf("erofs: converting folder %s: %w", path, err)
	}
	if err := d.blob.flush(); err != nil {
		return LayerInfo{}, fmt.Errorf("erofs: converting folder %s: %w", path, err)
	}
	d.meta.flush()
	d.digesting = false
	id := sum.Sum(nil)
	info := LayerInfo{
		DiffID:        hex.EncodeToString(id),
		BlobSize:      d.blob.size,
		Entries:       d.meta.entries,
		DroppedXattrs: d.dropped,
	}
	if err := d.meta.end(&info, id); err != nil {
		return LayerInfo{}, err
	}
	return info, nil
}

// tee writes to w, and to sum while open.
type tee struct {
	w    io.Writer
	sum  hash.Hash
	open *bool
}

func (t *tee) Write(p []byte) (int, error) {
	if *t.open {
		t.sum.Write(p)
	}
	return t.w.Write(p)
}

// fileID names an inode of the host.
type fileID struct{ dev, ino uint64 }

type dirConverter struct {
	ctx       context.Context
	opts      Options
	sum       hash.Hash
	digesting bool
	blob      *blobWriter
	meta      *metaWriter
	seen      map[fileID]string // first name of files with several
	buf       []byte
	dropped   int
	overhead  int64
}
