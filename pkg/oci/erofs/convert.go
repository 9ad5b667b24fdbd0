package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

// inlineMax is the largest file whose contents are kept in the metadata and
// end up in the index behind the file's inode, instead of taking a block of
// the blob. Measured on a Debian image with python, cold caches, 0 to 2048:
// reads are the same (38 for /bin/true, 180 for python3), the device shrinks
// by 3.3 MB at 512 and the index grows from 0.5 to 0.7 MB; at 2048 it would
// have 3 MB, and an index is kept for each image, a blob once.
const inlineMax = 512

// ConvertLayer reads the uncompressed tar of one layer to its end and writes
// the contents of its files to blob and everything else to meta, both
// sequentially and once. Memory does not grow with the archive.
//
// The caller checks LayerInfo.DiffID against the image's config; until then
// nothing of the output is to be trusted. On an error the output is to be
// thrown away. The context is looked at between members and between reads.
func ConvertLayer(ctx context.Context, tarStream io.Reader, blob, meta io.Writer, opts Options) (LayerInfo, error) {
	opts = opts.withDefaults()
	sum := sha256.New()
	c := &converter{
		opts: opts,
		tar: tarstream.NewReader(tarStream, sum, func(total int64) error {
			return checkStream(ctx, total, &opts)
		}),
		blob: newBlobWriter(blob, opts.MaxBytes),
		meta: newMetaWriter(meta),
	}
	err := c.run()
	if err != nil {
		return LayerInfo{}, fmt.Errorf("erofs: converting layer: %w", limitError(err))
	}
	id := sum.Sum(nil)
	info := LayerInfo{
		DiffID:        hex.EncodeToString(id),
		TarBytes:      c.tar.Total(),
		BlobSize:      c.blob.size,
		Entries:       c.meta.entries,
		DroppedXattrs: c.dropped,
	}
	if err := c.meta.end(&info, id); err != nil {
		return LayerInfo{}, err
	}
	return info, nil
}

// checkStream enforces the limits on the stream as a whole.
func checkStream(ctx context.Context, total int64, opts *Options) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if total > opts.MaxBytes {
		return fmt.Errorf("layer of more than %d bytes: %w", opts.MaxBytes, ErrLimit)
	}
	if opts.Compressed != nil && total > ratioFloor {
		if in := max(opts.Compressed(), 1); total/in > opts.MaxRatio {
			return fmt.Errorf("layer expands more than %d times: %w", opts.MaxRatio, ErrLimit)
		}
	}
	return nil
}

// limitError maps the archive reader's sentinels to this package's.
func limitError(err error) error {
	switch {
	case errors.Is(err, tarstream.ErrLimit):
		return fmt.Errorf("%w (%w)", err, ErrLimit)
	case errors.Is(err, tarstream.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w (%w)", err, ErrFormat)
	}
	return err
}

type converter struct {
	opts    Options
	tar     *tarstream.Reader
	blob    *blobWriter
	meta    *metaWriter
	dropped int
	members int
	entry   entry
	small   []byte

	overhead int64 // of sparse files, see maxSparseOverhead
}

func (c *converter) run() error {
	for {
		h, err := c.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if c.members++; c.members > c.opts.MaxEntries {
			return fmt.Errorf("more than %d entries: %w", c.opts.MaxEntries, ErrLimit)
		}
		if err := c.member(h); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	if err := c.tar.Drain(); err != nil {
		return err
	}
	return c.blob.flush()
}

// member converts one member of the archive.
func (c *converter) member(h *tarstream.Header) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	e := &c.entry
	*e = entry{}
	e.dir, e.base = splitPath(name)
	wh, base, skip, err := whiteoutOf(e.dir, e.base)
	if err != nil || skip {
		return err
	}
	if wh != 0 {
		e.kind, e.base = wh, base
		return c.meta.add(e)
	}
	if e.kind, err = kindOf(h.Type); err != nil {
		return err
	}
	if name == "" && e.kind != kindDir {
		return fmt.Errorf("the root is not a directory: %w", ErrFormat)
	}
	if e.kind == kindLink {
		if e.target, err = cleanPath(h.Linkname); err != nil {
			return err
		}
		if e.target == "" {
			return fmt.Errorf("hard link to the root: %w", ErrFormat)
		}
		return c.meta.add(e)
	}
	if err := c.attributes(h); err != nil {
		return err
	}
	switch e.kind {
	case kindSymlink:
		if err := checkTarget(h.Linkname); err != nil {
			return err
		}
		e.target = h.Linkname
	case kindChar, kindBlock:
		if e.rdev, err = deviceNumber(h.Major, h.Minor); err != nil {
			return err
		}
	case kindReg:
		if err := c.contents(h); err != nil {
			return err
		}
	}
	return c.meta.add(e)
}

// attributes copies owner, mode, time and extended attributes.
func (c *converter) attributes(h *tarstream.Header) error {
	e := &c.entry
	var err error
	if e.uid, err = ownerID("uid", h.UID); err != nil {
		return err
	}
	if e.gid, err = ownerID("gid", h.GID); err != nil {
		return err
	}
	e.perm = uint16(h.Mode & 0o7777) // some archivers put the type bits in
	e.sec, e.nsec = h.Seconds, h.Nanos
	body, dropped, err := encodeXattrs(h.Xattrs)
	c.dropped += dropped
	e.xattrs = string(body)
	return err
}

// contents stores the data of a regular file.
func (c *converter) contents(h *tarstream.Header) (err error) {
	e := &c.entry
	if h.Size > c.opts.MaxFileSize {
		return fmt.Errorf("file of %d bytes: %w", h.Size, ErrLimit)
	}
	e.size = uint64(h.Size)
	switch {
	case h.Size == 0:
		return nil
	case h.Sparse && len(holes(h)) > 0:
		return c.sparseContents(h)
	case h.Size <= inlineMax:
		c.small = c.small[:0]
		err = c.tar.Data(func(b []byte) error {
			c.small = append(c.small, b...)
			return nil
		})
		e.inline = string(c.small)
		return err
	}
	if e.block, err = c.blob.begin(); err != nil {
		return err
	}
	if err := c.tar.Data(c.blob.write); err != nil {
		return err
	}
	return c.blob.pad()
}

func kindOf(typeflag byte) (kind, error) {
	switch typeflag {
	case tarstream.TypeReg:
		return kindReg, nil
	case tarstream.TypeLink:
		return kindLink, nil
	case tarstream.TypeSymlink:
		return kindSymlink, nil
	case tarstream.TypeChar:
		return kindChar, nil
	case tarstream.TypeBlock:
		return kindBlock, nil
	case tarstream.TypeDir:
		return kindDir, nil
	case tarstream.TypeFifo:
		return kindFifo, nil
	}
	return 0, fmt.Errorf("unknown member type %q: %w", typeflag, ErrFormat)
}

// ownerID accepts what a kernel can store: 32 bits, of which all ones mean
// "no owner".
func ownerID(what string, v int64) (uint32, error) {
	if v < 0 || v >= 1<<32-1 {
		return 0, fmt.Errorf("%s %d does not fit 32 bits: %w", what, v, ErrFormat)
	}
	return uint32(v), nil
}

func deviceNumber(major, minor int64) (uint32, error) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, fmt.Errorf("device number %d:%d: %w", major, minor, ErrFormat)
	}
	return encodeDev(uint32(major), uint32(minor)), nil
}

func checkTarget(t string) error {
	switch {
	case t == "":
		return fmt.Errorf("symbolic link to nothing: %w", ErrFormat)
	case len(t) > maxTarget:
		return fmt.Errorf("symbolic link to a name of %d bytes: %w", len(t), ErrLimit)
	}
	return nil
}
