package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The on-disk format, from Linux 6.12 fs/erofs/erofs_fs.h. Little endian.
const (
	superOffset = 1024 // EROFS_SUPER_OFFSET
	superSize   = 128
	superMagic  = 0xE0F5E1E2

	slotSize = 32 // unit of node ids: erofs_inode_compact

	compactSize  = 32
	extendedSize = 64

	compatChecksum = 0x1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime    = 0x2 // EROFS_FEATURE_COMPAT_MTIME

	incompatChunked = 0x4 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE

	layoutPlain  = 0 // EROFS_INODE_FLAT_PLAIN
	layoutInline = 2 // EROFS_INODE_FLAT_INLINE
	layoutChunk  = 4 // EROFS_INODE_CHUNK_BASED

	chunkBitsMask = 0x1f       // EROFS_CHUNK_FORMAT_BLKBITS_MASK
	nullAddr      = 0xffffffff // EROFS_NULL_ADDR

	direntSize = 12
	maxName    = 255 // EROFS_NAME_LEN

	xattrHeader = 12 // erofs_xattr_ibody_header
	xattrEntry  = 4  // erofs_xattr_entry, without name and value
)

// EROFS file types of directory entries; they equal the generic FT_* types.
const (
	ftReg = 1 + iota
	ftDir
	ftChar
	ftBlock
	ftFifo
	ftSock
	ftSymlink
)

// Type bits of i_mode (stat(2)); the same numbers on every host.
const (
	sIFMT   = 0xf000
	sIFSOCK = 0xc000
	sIFLNK  = 0xa000
	sIFREG  = 0x8000
	sIFBLK  = 0x6000
	sIFDIR  = 0x4000
	sIFCHR  = 0x2000
	sIFIFO  = 0x1000
)

func fileType(mode uint16) byte {
	switch mode & sIFMT {
	case sIFREG:
		return ftReg
	case sIFDIR:
		return ftDir
	case sIFCHR:
		return ftChar
	case sIFBLK:
		return ftBlock
	case sIFIFO:
		return ftFifo
	case sIFSOCK:
		return ftSock
	case sIFLNK:
		return ftSymlink
	}
	return 0
}

var le = binary.LittleEndian

// superblock is erofs_super_block without the fields that are always zero
// here: meta_blkaddr, xattr_blkaddr, dirblkbits, devices and compression.
type superblock struct {
	checksum     uint32
	compat       uint32
	incompat     uint32
	rootNid      uint16
	inodes       uint64
	buildSeconds uint64
	buildNanos   uint32
	blocks       uint32 // of the device
	uuid         [16]byte
}

func (s *superblock) encode(b []byte) {
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[4:], s.checksum)
	le.PutUint32(b[8:], s.compat)
	b[12] = blockBits
	le.PutUint16(b[14:], s.rootNid)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], s.buildSeconds)
	le.PutUint32(b[32:], s.buildNanos)
	le.PutUint32(b[36:], s.blocks)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], s.incompat)
}

// superChecksum covers the rest of block 0 from the superblock on, with the
// checksum field zero (erofs_superblock_csum_verify). The kernel's crc32c
// leaves out the final inversion.
func superChecksum(block []byte) uint32 {
	return ^crc32.Checksum(block[superOffset:BlockSize], castagnoli)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeDev packs a device number as new_encode_dev does: major 12 bits, minor
// 20 bits.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func align(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
