// Package fs is the virtio file system device (virtio 1.3 §5.11): it shares a
// folder, or one file, of the host with a guest, whose kernel mounts it by its
// tag (mount -t virtiofs TAG DIR).
//
// The device is a FUSE server (protocol 7.31 to 7.39, linux/fuse.h) straight on
// the virtqueues: requests are copied once and judged as copies; file contents
// move between the file and guest RAM in one system call, without a buffer in
// between; and the common operations allocate nothing.
//
// # What a guest can reach
//
// Only what is below the shared folder. Names are single components, checked,
// and resolved by openat2(2) with RESOLVE_BENEATH and without links of any kind;
// links are text that the guest's kernel interprets. Objects are held as O_PATH
// descriptors and opened through the server's own /proc/self/fd, after their
// type was checked: only regular files and folders are ever opened, so no FIFO
// can block the server and no device is touched. A folder that the host's user
// moves out of the shared one stays within reach of a guest that had looked it
// up before, as it would for any process that has it open.
//
// # Owners
//
// The server has its user's rights and no others. With [OwnerSquash], which is
// the default, that user's files are the guest's [Config.UID] and GID, those of
// others belong to nobody (65534); a change of owner is accepted and has no
// effect, because package managers, tar and cp -a fail where it is refused;
// set-id bits are neither shown nor stored; FIFOs and sockets can be made, devices
// cannot. The guest's root gets no further than the host's user: a file of mode
// 0444 cannot be opened for writing. With [OwnerXattr] owner, mode and device
// number are kept in an extended attribute of the file, devices, FIFOs and
// sockets are plain files on the host, and root is root; the owner of a symbolic
// link is always the mapped one.
//
// POSIX ACLs name users and groups, so they are there with OwnerXattr only: the
// guest's kernel keeps to them, and to the host they mean nothing; its group gets
// what the ACL gives to the file's own. With OwnerSquash they are refused
// (EOPNOTSUPP), which setfacl shows and cp -a and tar bear; those that the host
// has set count on the host, and do not show.
//
// # Limits
//
// Descriptors, inodes and open files are bounded. An inode whose descriptor was
// given up is found again by its folder and name, and compared by device, inode
// number, time of birth and type; if it is not there any more, the guest gets
// ESTALE, and looks the name up anew.
//
// DAX is not offered: the device has no shared memory region (§5.11.4) and answers
// FUSE_SETUPMAPPING with ENOSYS. A page that is mapped costs a fault in the guest and
// one in the hypervisor, which is more than to copy it with its neighbours
// (docs/BENCHMARKS.md); a window of 1 GiB costs the guest 16 MiB of page structures;
// and a file that the host's user truncates while the guest has it mapped leaves
// a vCPU that cannot go on.
//
// What the guest changes, the host's inotify(7) tells of. The guest's own does not
// tell what the host changes: Linux has no queue for that (VIRTIO_FS_F_NOTIFICATION),
// so programs that wait for such changes have to poll.
//
// Devices exist on Linux 5.8 or later only; elsewhere New says so.
package fs

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio"
)

// InodeBytes is what an inode that a guest remembers takes of this process's heap at
// most, with the longest name; with names of a few letters it is about half of that.
const InodeBytes = 576

// Cache says how long a guest may believe what it has read.
type Cache int

const (
	// CacheAuto is for folders that both sides change: names and attributes
	// are believed for a second, contents until the file is opened again and has
	// changed meanwhile.
	CacheAuto Cache = iota
	// CacheNone asks the host every time. Files can still be mapped.
	CacheNone
	// CacheAlways is for folders that nobody but this guest changes.
	CacheAlways
)

// Owner says what owners and modes mean. See the package's documentation.
type Owner int

const (
	// OwnerSquash: everything belongs to the host's user.
	OwnerSquash Owner = iota
	// OwnerXattr: what the host's user may not set is kept in user.boxlite.stat.
	OwnerXattr
)

// Config is what is shared, and how.
type Config struct {
	Tag string // what the guest mounts it by; 1 to 36 bytes without NUL (§5.11.4)

	// Path names what is shared: a folder, or a regular file. A file is shown
	// alone, under the name File, in a folder in which nothing can be made; it
	// stays the file that it was when the device was made, also when another is
	// renamed over it on the host, and what lies beside it is out of reach.
	Path string
	Root *os.File // the same, open; Path is ignored. The caller keeps and may close it.
	File string   // name of a shared file in the guest; empty means its own

	ReadOnly bool // nothing can be changed, whatever the guest mounts or asks for

	Queues    int    // request queues, 1 to 64; 0 means 1
	QueueSize uint16 // descriptors per queue, a power of two from 16 to 1024; 0 means 512

	Cache Cache
	// Writeback lets the guest collect writes in its page cache. Only with
	// CacheAlways: the guest's idea of a file's size and times is then the true one.
	Writeback bool

	Owner    Owner
	UID, GID uint32 // what the host's user and group are in the guest; see also SetOwner

	// SharedLocks makes flock and fcntl locks hold between guests and against the
	// host's processes. Otherwise they hold within the guest, which is faster.
	// Linux 6.12 cannot interrupt a wait for a shared lock, not even to kill.
	SharedLocks bool

	NoXattr        bool // extended attributes are not supported
	OneFileSystem  bool // what is mounted below the folder stays hidden
	MaxInodes      int  // that a guest may remember at once; 0 means 524,288 ([InodeBytes] each)
	MaxDescriptors int  // that the device may hold; 0 means a quarter of the process's limit, at most 32,768

	// Log receives what the host refused to do for reasons of its own, at a
	// bounded rate. Any goroutine may call it. nil means silence.
	Log func(format string, args ...any)
}

// ErrNotSupported is wrapped by New's error on systems that it cannot work on.
var ErrNotSupported = errors.New("sharing folders is not supported on this system")

// Counters say what a device did since it was made.
type Counters struct {
	Requests   uint64 // all of them
	ReadBytes  uint64
	WroteBytes uint64
	Failed     uint64 // requests answered with an error, names that do not exist included
	Malformed  uint64 // requests that no kernel would send
	Evicted    uint64 // descriptors given up for others
}

// Device is a virtio file system device.
type Device struct {
	cfg     Config
	config  [configSize]byte
	srv     *server
	workers []*worker // of the high-priority queue and the request queues
	count   struct{ requests, read, wrote, failed, malformed, evicted atomic.Uint64 }
	limit   virtio.LogLimit
	owner   atomic.Uint64 // UID, and GID above

	stop    atomic.Bool    // tells the workers to return
	running sync.WaitGroup // workers of the current activation
}

// New opens what is shared and returns its device.
func New(cfg Config) (_ *Device, err error) {
	d := &Device{cfg: cfg}
	d.SetOwner(cfg.UID, cfg.GID)
	if err := d.cfg.complete(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.srv, err = newServer(d); err != nil {
		return nil, err
	}
	for i := range d.cfg.Queues + 1 {
		bell, err := virtio.NewDoorbell()
		if err != nil {
			return nil, err
		}
		d.workers = append(d.workers, newWorker(d, i, bell))
	}
	d.config = d.buildConfig()
	return d, nil
}

// Close frees all that the device holds open. The device must be reset, and the
// hypervisor must have let go of its eventfds.
func (d *Device) Close() error {
	errs := []error{d.Reset()}
	for _, w := range d.workers {
		errs = append(errs, w.bell.Close())
	}
	d.workers = nil
	if d.srv != nil {
		errs = append(errs, d.srv.close())
		d.srv = nil
	}
	return errors.Join(errs...)
}

// Counters returns what happened so far. Any goroutine may call it.
func (d *Device) Counters() Counters {
	c := &d.count
	return Counters{c.requests.Load(), c.read.Load(), c.wrote.Load(), c.failed.Load(), c.malformed.Load(), c.evicted.Load()}
}

// SetOwner says what the host's user and group are in the guest, in place of
// Config.UID and GID. What a guest has looked up before it may believe for a
// second. Any goroutine may call it.
func (d *Device) SetOwner(uid, gid uint32) { d.owner.Store(uint64(uid) | uint64(gid)<<32) }

// mapped returns the two.
func (d *Device) mapped() (uid, gid uint32) {
	v := d.owner.Load()
	return uint32(v), uint32(v >> 32)
}

// QueueEvents implements [virtio.QueueEventer].
func (d *Device) QueueEvents() []int {
	fds := make([]int, len(d.workers))
	for i, w := range d.workers {
		fds[i] = w.bell.FD()
	}
	return fds
}

// Notify implements [virtio.Device].
func (d *Device) Notify(q int) { d.workers[q].bell.Ring() }

// Activate implements [virtio.Device].
func (d *Device) Activate(a virtio.Activation) error {
	d.stop.Store(false)
	d.srv.start()
	for i, w := range d.workers {
		if a.Queues[i] == nil {
			continue
		}
		w.queue, w.irq, w.late = a.Queues[i], a.IRQ, nil
		d.running.Add(1)
		go w.run()
	}
	return nil
}

// Reset implements [virtio.Device]. It waits for the requests under way, for as
// long as the host's file system takes, and ends waits for locks. What the guest
// had open is closed.
func (d *Device) Reset() error {
	d.stop.Store(true)
	for _, w := range d.workers {
		w.bell.Ring()
	}
	d.running.Wait()
	if d.srv != nil {
		d.srv.stop()
	}
	return nil
}
