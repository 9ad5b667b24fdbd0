package blk

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/virtio"
)

const ( // §5.2.3
	featureSegMax      virtio.Features = 1 << 2
	featureRO          virtio.Features = 1 << 5
	featureBlkSize     virtio.Features = 1 << 6
	featureFlush       virtio.Features = 1 << 9
	featureTopology    virtio.Features = 1 << 10
	featureMQ          virtio.Features = 1 << 12
	featureDiscard     virtio.Features = 1 << 13
	featureWriteZeroes virtio.Features = 1 << 14
)

const ( // §5.2.4: offsets in struct virtio_blk_config
	cfgCapacity      = 0  // le64, sectors
	cfgSegMax        = 12 // le32
	cfgBlkSize       = 20 // le32, bytes
	cfgPhysicalExp   = 24 // u8, log2 of logical blocks per physical one
	cfgMinIO         = 26 // le16, logical blocks
	cfgOptIO         = 28 // le32, logical blocks
	cfgNumQueues     = 34 // le16
	cfgMaxDiscard    = 36 // le32, sectors
	cfgMaxDiscardSeg = 40 // le32
	cfgDiscardAlign  = 44 // le32, sectors
	cfgMaxZeroes     = 48 // le32, sectors
	cfgMaxZeroesSeg  = 52 // le32
	cfgZeroesUnmap   = 56 // u8
	configSize       = 60
)

const (
	sectorSize   = 512  // §5.2.4: the unit of sector numbers, whatever blk_size is
	physicalSize = 4096 // what the host's page cache and file systems work in

	// Limits on what one request can ask of the host.
	maxRequest      = 64 << 20 // bytes; drivers stay below 4 MiB
	maxSegments     = 32       // ranges of one DISCARD or WRITE_ZEROES
	maxDiscard      = 1 << 22  // sectors of one range: 2 GiB, which costs the host no I/O
	maxZeroes       = 1 << 15  // sectors of one range: 16 MiB, which may have to be written
	rangeSize       = 16       // §5.2.6: struct virtio_blk_discard_write_zeroes
	requestOverhead = 2        // descriptors of header and status
)

// Features implements [virtio.Device].
func (d *Device) Features() virtio.Features {
	f := featureSegMax | featureBlkSize | featureFlush | featureTopology
	if d.cfg.Queues > 1 {
		f |= featureMQ
	}
	if d.disk.ReadOnly() {
		return f | featureRO
	}
	return f | featureDiscard | featureWriteZeroes
}

func (d *Device) buildConfig() (c [configSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(c[cfgCapacity:], d.sectors)
	le.PutUint32(c[cfgSegMax:], uint32(d.cfg.QueueSize)-requestOverhead)
	le.PutUint32(c[cfgBlkSize:], sectorSize)
	c[cfgPhysicalExp] = 3 // physicalSize
	le.PutUint16(c[cfgMinIO:], physicalSize/sectorSize)
	le.PutUint32(c[cfgOptIO:], 0) // no preference
	le.PutUint16(c[cfgNumQueues:], uint16(d.cfg.Queues))
	if !d.disk.ReadOnly() {
		le.PutUint32(c[cfgMaxDiscard:], maxDiscard)
		le.PutUint32(c[cfgMaxDiscardSeg:], maxSegments)
		le.PutUint32(c[cfgDiscardAlign:], physicalSize/sectorSize)
		le.PutUint32(c[cfgMaxZeroes:], maxZeroes)
		le.PutUint32(c[cfgMaxZeroesSeg:], maxSegments)
		c[cfgZeroesUnmap] = 1
	}
	return c
}

// ReadConfig implements [virtio.Device].
func (d *Device) ReadConfig(p []byte) { copy(p, d.config[:]) }

// WriteConfig implements [virtio.Device]. All fields are read-only, because the
// cache mode cannot be changed (VIRTIO_BLK_F_CONFIG_WCE is not offered).
func (d *Device) WriteConfig([]byte, uint32) {}
