package erofs

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
)

// The first 1024 bytes of an EROFS image belong to boot loaders. An index has
// a header there that says what the device is made of:
//
//	0   magic "blerofs1"
//	8   blocks of the index (4 bytes)
//	12  number of parts (4 bytes)
//	16  crc32c of these 16 bytes and the table of parts (4 bytes)
//
// and the table of parts behind the superblock, each 32 bytes of DiffID and 4
// bytes with the number of blocks.
const (
	headerSize = 16
	partOffset = superOffset + superSize
	partSize   = 36
)

// writeParts writes header and table.
func writeParts(b []byte, info *ImageInfo) {
	copy(b, metaMagic)
	le.PutUint32(b[8:], uint32(info.IndexSize>>blockBits))
	le.PutUint32(b[12:], uint32(len(info.Parts)))
	table := b[partOffset : partOffset+len(info.Parts)*partSize]
	for i, p := range info.Parts {
		t := table[i*partSize:]
		hex.Decode(t, []byte(p.DiffID)) // from readMeta, which encoded it
		le.PutUint32(t[32:], uint32(p.Size>>blockBits))
	}
	le.PutUint32(b[16:], partsChecksum(b, table))
}

func partsChecksum(header, table []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:headerSize], castagnoli), castagnoli, table)
}

// ReadImageInfo reads what Merge returned back from an index, so that the
// blobs that belong behind a cached index are known without its layers. The
// checksums of header and superblock are verified; the inodes are not read.
func ReadImageInfo(index io.ReaderAt) (ImageInfo, error) {
	info, err := readImageInfo(index)
	if err != nil {
		return ImageInfo{}, fmt.Errorf("erofs: reading index: %w", err)
	}
	return info, nil
}

func readImageInfo(index io.ReaderAt) (ImageInfo, error) {
	block := make([]byte, BlockSize)
	if err := readAt(index, block, 0); err != nil {
		return ImageInfo{}, err
	}
	var sb superblock
	if string(block[:len(metaMagic)]) != metaMagic || !sb.decode(block) {
		return ImageInfo{}, fmt.Errorf("no superblock of an index: %w", ErrFormat)
	}
	info := ImageInfo{
		UUID:      sb.uuid,
		Inodes:    int64(sb.inodes),
		IndexSize: int64(le.Uint32(block[8:])) * BlockSize,
		TotalSize: int64(sb.blocks) * BlockSize,
	}
	count := le.Uint32(block[12:])
	if count > maxParts {
		return ImageInfo{}, fmt.Errorf("index of %d parts: %w", count, ErrFormat)
	}
	table := make([]byte, count*partSize)
	if err := readAt(index, table, partOffset); err != nil {
		return ImageInfo{}, err
	}
	if partsChecksum(block, table) != le.Uint32(block[16:]) {
		return ImageInfo{}, fmt.Errorf("header has a wrong checksum: %w", ErrFormat)
	}
	end := info.IndexSize
	for ; len(table) > 0; table = table[partSize:] {
		p := Part{
			DiffID: hex.EncodeToString(table[:32]),
			Offset: end,
			Size:   int64(le.Uint32(table[32:])) * BlockSize,
		}
		end += p.Size
		info.Parts = append(info.Parts, p)
	}
	if end != info.TotalSize {
		return ImageInfo{}, fmt.Errorf("parts make %d bytes of %d: %w", end, info.TotalSize, ErrFormat)
	}
	return info, nil
}

// readAt fills b or fails.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == nil {
		return fmt.Errorf("index ends early: %w", ErrFormat)
	}
	return err
}

// decode reads the superblock in block 0 and tells whether it is one of ours,
// with the right checksum.
func (s *superblock) decode(block []byte) bool {
	b := block[superOffset:]
	s.checksum = le.Uint32(b[4:])
	s.compat = le.Uint32(b[8:])
	s.rootNid = le.Uint16(b[14:])
	s.inodes = le.Uint64(b[16:])
	s.buildSeconds = le.Uint64(b[24:])
	s.buildNanos = le.Uint32(b[32:])
	s.blocks = le.Uint32(b[36:])
	copy(s.uuid[:], b[48:64])
	s.incompat = le.Uint32(b[80:])
	if le.Uint32(b) != superMagic || b[12] != blockBits || s.inodes > 1<<32 {
		return false
	}
	zeroed := append([]byte(nil), block...)
	le.PutUint32(zeroed[superOffset+4:], 0)
	return superChecksum(zeroed) == s.checksum && s.compat == compatChecksum|compatMtime
}
