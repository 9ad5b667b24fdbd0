package erofs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
)

// Merge applies the layers, lowest first, and writes the index of the image to
// index, in one Write. The device is the index followed by
// ImageInfo.Parts, in order; parts are the blobs of the layers that have one,
// each once even if an image has a layer twice.
//
// An image has at least one layer: none is an error, so that a damaged
// manifest can never become an empty root.
func Merge(ctx context.Context, index io.Writer, layers []LayerSource, opts MergeOptions) (ImageInfo, error) {
	info, b, err := merge(ctx, layers, opts.withDefaults())
	if err != nil {
		return ImageInfo{}, fmt.Errorf("erofs: merging %d layers: %w", len(layers), err)
	}
	if _, err := index.Write(b); err != nil {
		return ImageInfo{}, fmt.Errorf("erofs: writing index: %w", err)
	}
	return info, nil
}

// maxParts bounds the parts of one device. The root inode lies behind their
// table and its node id has 16 bits.
const maxParts = 4096

func merge(ctx context.Context, layers []LayerSource, opts MergeOptions) (ImageInfo, []byte, error) {
	if len(layers) == 0 {
		return ImageInfo{}, nil, fmt.Errorf("image without layers: %w", ErrFormat)
	}
	t := newTree(opts.MaxInodes)
	var parts []Part
	partOf := make([]int, len(layers)) // index into parts, or -1
	seen := make(map[string]int)
	for i, src := range layers {
		m, layer, err := readMeta(src.Meta, opts.MaxMeta)
		if err != nil {
			return ImageInfo{}, nil, fmt.Errorf("layer %d: %w", i, err)
		}
		opts.MaxMeta -= layer.MetaSize
		if err := applyLayer(ctx, t, i, m); err != nil {
			return ImageInfo{}, nil, fmt.Errorf("layer %d (%.12s): %w", i, layer.DiffID, err)
		}
		partOf[i] = -1
		if layer.BlobSize == 0 {
			continue
		}
		p, ok := seen[layer.DiffID]
		if !ok {
			p = len(parts)
			seen[layer.DiffID] = p
			parts = append(parts, Part{DiffID: layer.DiffID, Size: layer.BlobSize})
		}
		if parts[p].Size != layer.BlobSize {
			return ImageInfo{}, nil, fmt.Errorf("layer %d (%.12s): blobs of %d and %d bytes: %w",
				i, layer.DiffID, parts[p].Size, layer.BlobSize, ErrFormat)
		}
		partOf[i] = p
	}
	if len(parts) > maxParts {
		return ImageInfo{}, nil, fmt.Errorf("image of %d blobs: %w", len(parts), ErrLimit)
	}
	l, err := newLayout(t.root, len(parts), opts.MaxIndex)
	if err != nil {
		return ImageInfo{}, nil, err
	}
	end := l.size
	for i := range parts {
		parts[i].Offset = end
		end += parts[i].Size
	}
	if end>>blockBits >= nullAddr {
		return ImageInfo{}, nil, fmt.Errorf("device of %d bytes: %w", end, ErrLimit)
	}
	base := make([]uint32, len(layers))
	for i, p := range partOf {
		if p >= 0 {
			base[i] = uint32(parts[p].Offset >> blockBits)
		}
	}
	info := ImageInfo{IndexSize: l.size, TotalSize: end, Inodes: int64(len(l.order)), Parts: parts}
	b := l.write(base)
	l.seal(b, &info)
	return info, b, nil
}

// applyLayer applies all entries of a layer.
func applyLayer(ctx context.Context, t *tree, number int, m *metaReader) error {
	t.beginLayer(number, m.total)
	var e entry
	for i := 0; ; i++ {
		if i&0xfff == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		more, err := m.next(&e)
		if err != nil || !more {
			return err
		}
		// What the blob does not have must not be read from the next one.
		if !e.insideBlob(m.blocks) {
			return fmt.Errorf("%q: data behind the end of the blob: %w", e.path(), ErrFormat)
		}
		if err := t.apply(&e); err != nil {
			return err
		}
	}
}

// insideBlob tells whether the blocks of e are among the blob's.
func (e *entry) insideBlob(blocks uint32) bool {
	if e.kind != kindReg || e.size == 0 || e.inline != "" {
		return true
	}
	need := (e.size-1)>>blockBits + 1
	if e.sparse != nil {
		need = e.sparse.storedBlocks(e.size)
	}
	return uint64(e.block)+need <= uint64(blocks)
}

// storedBlocks returns how many blocks the stored chunks of a file of the
// given size take. Only the very last chunk can be partial.
func (c *chunkMap) storedBlocks(size uint64) uint64 {
	var chunk, stored uint64
	for _, r := range c.runs {
		chunk += uint64(r.skip) + uint64(r.count)
		stored += uint64(r.count)
	}
	blocks := stored << c.bits
	fileBlocks := (size + BlockSize - 1) >> blockBits
	if end := chunk << c.bits; len(c.runs) > 0 && end > fileBlocks {
		blocks -= end - fileBlocks
	}
	return blocks
}

// seal writes header, table of parts and superblock. The UUID is made from the
// whole index, whose table names the contents of the blobs, so it changes when
// anything in the image does.
func (l *layout) seal(b []byte, info *ImageInfo) {
	sb := superblock{
		compat:       compatChecksum | compatMtime,
		rootNid:      uint16(l.root.nid()),
		inodes:       uint64(len(l.order)),
		buildSeconds: uint64(l.sec),
		buildNanos:   l.nsec,
		blocks:       uint32(info.TotalSize >> blockBits),
	}
	if l.chunked {
		sb.incompat |= incompatChunked
	}
	writeParts(b, info)
	sb.encode(b[superOffset:])
	sum := sha256.Sum256(b)
	copy(sb.uuid[:], sum[:])
	sb.uuid[6] = sb.uuid[6]&0x0f | 0x80 // version 8, RFC 9562 §5.8
	sb.uuid[8] = sb.uuid[8]&0x3f | 0x80
	info.UUID = sb.uuid
	sb.encode(b[superOffset:])
	sb.checksum = superChecksum(b)
	sb.encode(b[superOffset:])
}
