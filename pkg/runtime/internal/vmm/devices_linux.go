package vmm

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/blk"
	vconsole "github.com/anthropics/boxlite/pkg/virtio/console"
	"github.com/anthropics/boxlite/pkg/virtio/rng"
	"github.com/anthropics/boxlite/pkg/virtio/vsock"
)

// devices are the virtio devices of a box.
type devices struct {
	list   []virtio.Device
	vsock  *vsock.Device
	closes []func() error // what outlives a device's Reset: descriptors and goroutines
}

// openDevices makes the devices in the order in which the guest numbers them:
// see RootDevice and WriteDevice. On an error none is left open.
func openDevices(cfg *Config, con *console, log *slog.Logger) (d devices, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if len(cfg.Rootfs) > 0 {
		disk, err := openRootfs(cfg.Rootfs)
		if err != nil {
			return d, fmt.Errorf("vmm: root filesystem: %w", err)
		}
		if err := d.addDisk(disk, "rootfs", cfg.CPUs, log); err != nil {
			return d, err
		}
	}
	if cfg.Disk != "" {
		disk, err := blk.OpenFile(cfg.Disk, blk.Options{})
		if err != nil {
			return d, fmt.Errorf("vmm: %w", err)
		}
		if err := d.addDisk(disk, "disk", cfg.CPUs, log); err != nil {
			return d, err
		}
	}
	if d.vsock, err = vsock.New(vsock.Config{}); err != nil {
		return d, fmt.Errorf("vmm: %w", err)
	}
	d.add(d.vsock, d.vsock.Close)
	entropy, err := rng.New(rng.Config{})
	if err != nil {
		return d, fmt.Errorf("vmm: %w", err)
	}
	d.add(entropy, entropy.Close)
	tty, err := vconsole.New(con, vconsole.Config{})
	if err != nil {
		return d, fmt.Errorf("vmm: %w", err)
	}
	d.add(tty, tty.Close)
	return d, nil
}

func (d *devices) add(dev virtio.Device, done func() error) {
	d.list = append(d.list, dev)
	d.closes = append(d.closes, done)
}

// maxQueues bounds the request queues of a disk, each of which is a goroutine.
const maxQueues = 4

// addDisk owns the disk from here on, also when it fails.
func (d *devices) addDisk(disk blk.Backend, serial string, cpus int, log *slog.Logger) error {
	dev, err := blk.New(disk, blk.Config{
		Serial: serial, Queues: min(cpus, maxQueues),
		// A full or failing disk of the host: the guest only learns that its request failed.
		Log: func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...), "disk", serial) },
	})
	if err != nil {
		return fmt.Errorf("vmm: %w", err)
	}
	d.add(dev, dev.Close)
	return nil
}

func openRootfs(parts []Part) (*blk.Joined, error) {
	var open []blk.Part
	for _, p := range parts {
		f, err := os.Open(p.Path)
		if err != nil {
			for _, o := range open {
				o.File.Close()
			}
			return nil, err
		}
		open = append(open, blk.Part{File: f, Offset: p.Offset, Length: p.Length})
	}
	return blk.Concat(open...)
}

// close comes after the machine is gone.
func (d *devices) close() error {
	var errs []error
	for i := len(d.closes) - 1; i >= 0; i-- {
		errs = append(errs, d.closes[i]())
	}
	d.closes = nil
	return errors.Join(errs...)
}
