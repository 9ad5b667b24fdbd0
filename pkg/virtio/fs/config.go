package fs

import (
	"fmt"
	"strings"

	"github.com/anthropics/boxlite/pkg/virtio"
)

const ( // §5.11.4: struct virtio_fs_config
	tagSize      = 36
	cfgNumQueues = 36 // le32, request queues
	configSize   = 40 // notify_buf_size follows only with VIRTIO_FS_F_NOTIFICATION
)

const (
	queueHiprio = 0 // §5.11.2; without VIRTIO_FS_F_NOTIFICATION the request queues follow

	maxQueues        = 64
	minQueueSize     = 16
	maxQueueSize     = 1024
	defaultQueueSize = 512 // room for 1 MiB in pages and its headers
	hiprioSize       = 128

	defaultInodes   = 512 << 10
	minInodes       = 64
	minDescriptors  = 64
	mostDescriptors = 32768 // of the default
)

// complete checks the configuration and fills in what is not set.
func (c *Config) complete() error {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueSize == 0 {
		c.QueueSize = defaultQueueSize
	}
	if c.MaxInodes == 0 {
		c.MaxInodes = defaultInodes
	}
	n := c.QueueSize
	switch {
	case c.Tag == "" || len(c.Tag) > tagSize || strings.IndexByte(c.Tag, 0) >= 0:
		return fmt.Errorf("fs: tag %q: want 1 to %d bytes without NUL", c.Tag, tagSize)
	case c.Path == "" && c.Root == nil:
		return fmt.Errorf("fs: share %q names no folder", c.Tag)
	case c.Queues < 1 || c.Queues > maxQueues:
		return fmt.Errorf("fs: %d queues: want 1 to %d", c.Queues, maxQueues)
	case n < minQueueSize || n > maxQueueSize || n&(n-1) != 0:
		return fmt.Errorf("fs: queue size %d: want a power of two from %d to %d", n, minQueueSize, maxQueueSize)
	case c.File != "" && checkName([]byte(c.File)) != 0:
		return fmt.Errorf("fs: %q cannot be the name of a file", c.File)
	case c.Cache < CacheAuto || c.Cache > CacheAlways:
		return fmt.Errorf("fs: unknown cache mode %d", c.Cache)
	case c.Owner < OwnerSquash || c.Owner > OwnerXattr:
		return fmt.Errorf("fs: unknown owner mode %d", c.Owner)
	case c.Writeback && (c.Cache != CacheAlways || c.ReadOnly):
		return fmt.Errorf("fs: share %q: writes may only be collected with CacheAlways in a folder that is not read-only", c.Tag)
	case c.Owner == OwnerXattr && c.NoXattr:
		return fmt.Errorf("fs: share %q: owners cannot be kept in extended attributes that are turned off", c.Tag)
	case c.MaxInodes < minInodes:
		return fmt.Errorf("fs: %d inodes: want at least %d", c.MaxInodes, minInodes)
	case c.MaxDescriptors != 0 && c.MaxDescriptors < minDescriptors:
		return fmt.Errorf("fs: %d descriptors: want at least %d", c.MaxDescriptors, minDescriptors)
	}
	return nil
}

func (d *Device) buildConfig() (c [configSize]byte) {
	copy(c[:tagSize], d.cfg.Tag)
	le.PutUint32(c[cfgNumQueues:], uint32(d.cfg.Queues))
	return c
}

// ID implements [virtio.Device].
func (d *Device) ID() virtio.DeviceID { return virtio.IDFS }

// Features implements [virtio.Device]. VIRTIO_FS_F_NOTIFICATION is not offered:
// Linux does not use it.
func (d *Device) Features() virtio.Features { return 0 }

// QueueSizes implements [virtio.Device].
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, d.cfg.Queues+1)
	for i := range sizes {
		sizes[i] = d.cfg.QueueSize
	}
	sizes[queueHiprio] = min(hiprioSize, d.cfg.QueueSize)
	return sizes
}

// ReadConfig implements [virtio.Device].
func (d *Device) ReadConfig(p []byte) { copy(p, d.config[:]) }

// WriteConfig implements [virtio.Device]. All fields are read-only (§5.11.4).
func (d *Device) WriteConfig([]byte, uint32) {}
