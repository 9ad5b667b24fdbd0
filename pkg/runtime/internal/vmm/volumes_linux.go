package vmm

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"golang.org/x/sys/unix"
)

// volumeInodes is how many inodes a guest may remember at once, of all volumes together.
const volumeInodes = 512 << 10

// volumeHeapLimit is for boxes with volumes: what a guest has looked up in them is
// on the heap, and a limit below that would have it collected without end.
const volumeHeapLimit = volumeInodes*fs.InodeBytes + networkHeapLimit

// fileName is what a shared file is called in the folder that its device shows.
const fileName = "file"

// openVolumes makes a device of each shared folder or file, and says in cfg.Mounts
// how the guest finds it. Each has a device of its own: what the guest does to one
// does not hold up another, and read-only is a property of the device.
func (c *child) openVolumes() error {
	shares := 0
	for i := range c.cfg.Mounts {
		if c.cfg.Mounts[i].Share != nil {
			shares++
		}
	}
	if shares == 0 {
		return nil
	}
	debug.SetMemoryLimit(volumeHeapLimit)
	var list []virtio.Device
	for i := range c.cfg.Mounts {
		m := &c.cfg.Mounts[i]
		if m.Share == nil {
			continue
		}
		m.Point.Kind, m.Point.Tag = agentapi.MountShare, "v"+strconv.Itoa(len(list))
		d, err := openVolume(m, c.cfg.CPUs, descriptorShare(processDescriptors(), shares), inodeShare(shares), c.log)
		if err != nil {
			return fmt.Errorf("vmm: volume at %s: %w", m.Point.Path, err)
		}
		if list = append(list, d); !m.Share.KeepOwners {
			c.mapped = append(c.mapped, d)
		}
		c.devices.closes = append(c.devices.closes, d.Close)
	}
	c.devices.list = placed(c.devices.list, list, machine.InterruptLines)
	return nil
}

func openVolume(m *Mount, cpus, descriptors, inodes int, log *slog.Logger) (*fs.Device, error) {
	fd, err := unix.Open(m.Share.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.Share.Path, Err: err}
	}
	root := os.NewFile(uintptr(fd), m.Share.Path)
	defer root.Close()
	fi, err := root.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().IsRegular() {
		m.Point.File = fileName
	}
	owner := fs.OwnerSquash
	if m.Share.KeepOwners {
		owner = fs.OwnerXattr
	}
	return fs.New(fs.Config{
		Tag: m.Point.Tag, Root: root, File: m.Point.File, ReadOnly: m.Point.ReadOnly,
		Queues: min(cpus, maxQueues), Owner: owner, SharedLocks: m.Share.SharedLocks, MaxDescriptors: descriptors, MaxInodes: inodes,
		Log: func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...), "volume", m.Point.Path) },
	})
}

const (
	// fewestDescriptors and mostDescriptors bound those of one volume.
	fewestDescriptors = 64
	mostDescriptors   = 32768
)

// processDescriptors is how many the process may have.
func processDescriptors() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return l.Cur
}

// descriptorShare is how many of the process's descriptors each of so many volumes may
// hold: a quarter of all together. The network has five eighths at most (netstack's
// limits), and an eighth stays for everything else. That a volume cannot do with fewer
// than some may make it more where there are many and the process has little: then a
// guest that wants to can use up its own VM process's, to its own harm.
func descriptorShare(process uint64, volumes int) int {
	return int(max(fewestDescriptors, min(mostDescriptors, process/4/uint64(volumes))))
}

// inodeShare is how many inodes of each of so many volumes a guest may remember.
func inodeShare(volumes int) int { return volumeInodes / volumes }

// placed puts the volumes among the other devices. There are fewer interrupt lines
// than places, so that those past the last line share the lines of the first ones:
// then volumes share with volumes, as long as there are not too many of them, and the
// disk's interrupt costs no volume's time.
func placed(others, volumes []virtio.Device, lines int) []virtio.Device {
	first := min(len(volumes), max(0, len(others)+len(volumes)-lines), max(0, lines-len(others)))
	return slices.Concat(volumes[:first], others, volumes[first:])
}
