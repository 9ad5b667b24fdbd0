package erofs

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// ReadImageInfo reads what Merge returned back from an index, so that the
// blobs that belong behind a cached index are known without its layers. The
// superblock's checksum is verified; the inodes are not read.
func ReadImageInfo(index io.ReaderAt) (ImageInfo, error) {
	info, err := readImageInfo(index)
	if err != nil {
		return ImageInfo{}, fmt.Errorf("erofs: reading index: %w", err)
	}
	return info, nil
}

func readImageInfo(index io.ReaderAt) (ImageInfo, error) {
	var info ImageInfo
	block := make([]byte, BlockSize)
	if _, err := index.ReadAt(block, 0); err != nil {
		return info, err
	}
	var sb superblock
	if !sb.decode(block) {
		return info, fmt.Errorf("superblock: %w", ErrFormat)
	}
	info.UUID = sb.uuid
	info.Inodes = int64(sb.inodes)
	info.IndexSize = int64(sb.blocks) * BlockSize
	end := info.IndexSize
	if sb.devices > maxDevices || sb.devices > 0 && sb.devSlot != devOffset/devSize {
		return info, fmt.Errorf("device table: %w", ErrFormat)
	}
	table := make([]byte, int(sb.devices)*devSize)
	if _, err := index.ReadAt(table, devOffset); err != nil && len(table) > 0 {
		return info, err
	}
	for ; len(table) > 0; table = table[devSize:] {
		p := Part{
			DiffID: string(table[:64]),
			Size:   int64(le.Uint32(table[64:])) * BlockSize,
			Offset: int64(le.Uint32(table[68:])) * BlockSize,
		}
		_, err := hex.DecodeString(p.DiffID)
		if err != nil || strings.ToLower(p.DiffID) != p.DiffID || p.Offset != end || p.Size == 0 {
			return info, fmt.Errorf("device table: %w", ErrFormat)
		}
		end += p.Size
		info.Parts = append(info.Parts, p)
	}
	info.TotalSize = end
	return info, nil
}

// decode reads the superblock in block 0 and tells whether it is one of ours,
// with the right checksum.
func (s *superblock) decode(block []byte) bool {
	b := block[superOffset:]
	s.checksum = le.Uint32(b[4:])
	s.compat = le.Uint32(b[8:])
	s.incompat = le.Uint32(b[80:])
	s.rootNid = le.Uint16(b[14:])
	s.inodes = le.Uint64(b[16:])
	s.buildSeconds = le.Uint64(b[24:])
	s.buildNanos = le.Uint32(b[32:])
	s.blocks = le.Uint32(b[36:])
	copy(s.uuid[:], b[48:64])
	s.devices = le.Uint16(b[86:])
	s.devSlot = le.Uint16(b[88:])
	if le.Uint32(b) != superMagic || b[12] != blockBits || s.inodes > 1<<32 {
		return false
	}
	zeroed := append([]byte(nil), block...)
	le.PutUint32(zeroed[superOffset+4:], 0)
	return superChecksum(zeroed) == s.checksum && s.compat == compatChecksum|compatMtime
}
