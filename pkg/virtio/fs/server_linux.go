package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// server is the file system behind a device. Its methods may be called from the
// workers of all queues at once.
type server struct {
	dev *Device
	cfg *Config

	proc   int // the directory /proc/self/fd
	single bool
	file   string // name of the single file
	uid    uint32 // the host's user
	gid    uint32
	umask  uint32 // bits that the process may clear from modes
	fsetid bool   // the host's kernel does not clear set-id bits for us

	ready   atomic.Bool // FUSE_INIT was answered
	flags   atomic.Uint64
	nodes   table
	handles handles
	locks   locks
	noAt    atomic.Bool // getxattrat(2) is not there
}

const fileID = rootID + 1 // of a single file

func newServer(d *Device) (_ *server, err error) {
	s := &server{dev: d, cfg: &d.cfg, proc: -1, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	defer func() {
		if err != nil {
			err = fmt.Errorf("fs: share %q: %w", d.cfg.Tag, err)
			_ = s.close()
		}
	}()
	s.handles.srv, s.handles.byID = s, map[uint64]*handle{}
	s.locks.init(s)
	most := d.cfg.MaxDescriptors
	if most == 0 {
		most = mostDescriptors
		var l unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
			most = max(minDescriptors, int(min(l.Cur/4, uint64(most))))
		}
	}
	// Every open file keeps its inode's descriptor, so there must be more of those.
	s.handles.most = most * 3 / 8
	s.nodes.init(s, d.cfg.MaxInodes, most-s.handles.most)

	fd, name, err := s.openShare()
	if err != nil {
		return nil, err
	}
	if s.proc, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open /proc/self/fd: %w", err)
	}
	var st unix.Statx_t
	if errno := statAt(fd, empty, &st); errno != 0 {
		unix.Close(fd)
		return nil, os.NewSyscallError("statx", errno)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		s.nodes.fix(rootID, fd, &st)
	case unix.S_IFREG:
		s.single, s.file = true, d.cfg.File
		if s.file == "" {
			s.file = name
		}
		if checkName([]byte(s.file)) != 0 {
			unix.Close(fd)
			return nil, fmt.Errorf("%q cannot be the name of the shared file; set another", s.file)
		}
		s.nodes.fix(fileID, fd, &st)
		root := st
		root.Mode, root.Ino = unix.S_IFDIR|0o555, rootID
		s.nodes.fix(rootID, -1, &root)
	default:
		unix.Close(fd)
		return nil, errors.New("neither a folder nor a regular file")
	}
	if d.cfg.File != "" && !s.single {
		return nil, errors.New("a name for the file is set, but a folder is shared")
	}
	var f unix.Statfs_t
	if unix.Fstatfs(fd, &f) == nil && f.Type == unix.OVERLAYFS_SUPER_MAGIC {
		// A file that overlayfs copies up keeps its number and is born again.
		s.nodes.mounts[0].noBirth = true
	}
	if probe, errno := s.openPath(s.proc, dot); errno != 0 {
		return nil, fmt.Errorf("%w: it needs Linux 5.8 (openat2: %w)", ErrNotSupported, errno)
	} else {
		unix.Close(probe)
	}
	s.umask = readUmask()
	s.fsetid = hasFsetid()
	return s, nil
}

// openShare opens what is shared, without access to its contents, and returns its name.
func (s *server) openShare() (fd int, name string, err error) {
	if r := s.cfg.Root; r != nil {
		// A descriptor of its own, so that the caller may close his.
		fd, err = unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return fd, filepath.Base(r.Name()), os.NewSyscallError("dup", err)
	}
	fd, err = unix.Open(s.cfg.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", &os.PathError{Op: "open", Path: s.cfg.Path, Err: err}
	}
	return fd, filepath.Base(s.cfg.Path), nil
}

// readUmask returns the process's umask. Only a second look would be exact, and
// setting it to look would be felt by every thread.
func readUmask() uint32 {
	p, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, rest, ok := strings.Cut(string(p), "\nUmask:"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			if v, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32); err == nil {
				return uint32(v)
			}
		}
	}
	return 0o777 // each mode is set once more
}

// hasFsetid reports whether the process may write to files without that clearing
// their set-id bits (capabilities(7)).
func hasFsetid() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return true
	}
	return data[0].Effective&(1<<unix.CAP_FSETID) != 0
}

// start begins an activation.
func (s *server) start() { s.locks.start() }

// stop ends it: nobody waits for a lock any more, and all that the guest held is closed.
func (s *server) stop() {
	s.locks.stop()
	s.clear()
}

// clear ends a session.
func (s *server) clear() {
	s.ready.Store(false)
	s.locks.clear()
	s.handles.clear()
	s.nodes.clear()
}

// close frees what is left after stop.
func (s *server) close() error {
	for _, id := range []uint64{rootID, fileID} {
		if n := s.nodes.byID[id]; n != nil && n.fixed {
			closeFD(n.fd)
			n.fd = -1
		}
	}
	closeFD(s.proc)
	s.proc = -1
	return nil
}

// openPath opens one component without access to its contents.
func (s *server) openPath(dir int, name cstring) (int, syscall.Errno) {
	for {
		fd, errno := s.openIn(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errno == 0 || !s.exhausted(errno) {
			return fd, errno
		}
	}
}

// openIn is openBeneath under the share's rules.
func (s *server) openIn(dir int, name cstring, flags int, mode uint32) (int, syscall.Errno) {
	resolve := uint64(beneath)
	if s.cfg.OneFileSystem {
		resolve |= unix.RESOLVE_NO_XDEV
	}
	return openBeneath(dir, name, flags, mode, resolve)
}

// exhausted reports whether a call is worth another try, after descriptors were
// given up because the process had none left.
func (s *server) exhausted(errno syscall.Errno) bool {
	return errno == syscall.EMFILE && s.nodes.makeRoom()
}

// reopen opens a file that is held, of a type that cannot block or do anything
// by being opened.
func (s *server) reopen(n *node, fd, flags int) (int, syscall.Errno) {
	switch n.typ {
	case unix.S_IFDIR:
		if flags&unix.O_ACCMODE != unix.O_RDONLY {
			return -1, syscall.EISDIR
		}
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return -1, syscall.ELOOP
	default:
		return -1, syscall.ENXIO
	}
	// No O_NOFOLLOW: what is opened is a link of /proc, which leads to the very
	// object that fd is, whatever has become of its name.
	flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	noatime := 0
	if s.cfg.ReadOnly {
		noatime = unix.O_NOATIME
	}
	var buf [16]byte
	for {
		got, errno := openat(s.proc, fdName(&buf, fd), flags|noatime)
		switch {
		case errno == syscall.EPERM && noatime != 0: // another user's file
			noatime = 0
		case errno != 0 && s.exhausted(errno):
		case errno == syscall.EMFILE:
			return -1, syscall.ENFILE
		default:
			return got, errno
		}
	}
}

// fdName is the name of a descriptor below /proc/self/fd.
func fdName(buf *[16]byte, fd int) cstring {
	b := strconv.AppendUint(buf[:0], uint64(fd), 10)
	return cstring(append(b, 0))
}
