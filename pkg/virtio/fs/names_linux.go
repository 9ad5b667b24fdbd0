package fs

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// folder holds the folder that a request names, in which names may change.
func (w *worker) folder(id uint64) (*node, int, syscall.Errno) {
	s := w.srv
	if s.single && id == rootID {
		return nil, -1, syscall.EPERM
	}
	n, fd, errno := s.nodes.hold(id)
	if errno == 0 && n.typ != unix.S_IFDIR {
		s.nodes.unpin(n)
		return nil, -1, syscall.ENOTDIR
	}
	return n, fd, errno
}

func (w *worker) lookup(a *args) ([]byte, syscall.Errno) {
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	s := w.srv
	if s.single && w.h.node() == rootID {
		return w.lookupSingle(name)
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	out, errno := w.entry(n, dir, name)
	if errno == syscall.ENOENT && s.cfg.Cache == CacheAlways { // which may be believed, too
		clear(out)
		le.PutUint64(out[16:], day)
		return out, 0
	}
	return out, errno
}

func (w *worker) lookupSingle(name cstring) ([]byte, syscall.Errno) {
	s := w.srv
	if string(name.text()) != s.file {
		return nil, syscall.ENOENT
	}
	n, fd, errno := s.nodes.hold(fileID)
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	at, errno := w.statNode(fd)
	if errno != 0 {
		return nil, errno
	}
	out := w.out[:entrySize]
	s.putEntry(out, fileID, &w.st, at, false)
	return out, 0
}

func (w *worker) symlink(a *args) ([]byte, syscall.Errno) {
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	target, ok := a.string()
	switch {
	case !ok || len(target) == 1:
		return nil, syscall.EINVAL
	case len(target.text()) > targetMax:
		return nil, syscall.ENAMETOOLONG
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.nodes.unpin(n)
	if errno := symlinkAt(target, dir, name); errno != 0 {
		return nil, errno
	}
	return w.entry(n, dir, name)
}

func (w *worker) mkdir(a *args) ([]byte, syscall.Errno) {
	mode, umask := a.u32(), a.u32()
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	s := w.srv
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	mode = mode&0o7777 | unix.S_IFDIR
	host := s.birthMode(mode, umask, true)
	if errno := mkdirAt(dir, name, host); errno != 0 {
		return nil, errno
	}
	if s.cfg.Owner == OwnerXattr || host&s.umask != 0 {
		if errno := w.bornAt(dir, name, unix.O_DIRECTORY, mode, umask, 0); errno != 0 {
			return nil, errno
		}
	}
	return w.entry(n, dir, name)
}

// bornAt is born for what was just made under a name.
func (w *worker) bornAt(dir int, name cstring, flags int, mode, umask, rdev uint32) syscall.Errno {
	s := w.srv
	how := unix.O_PATH
	if s.cfg.Owner == OwnerXattr {
		how = unix.O_RDONLY | unix.O_NONBLOCK
	}
	f, errno := s.openIn(dir, name, how|flags|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return errno
	}
	defer closeFD(f)
	return w.born(f, dir, mode, umask, rdev)
}

// mknod makes files, FIFOs and sockets; the latter two, and devices, are plain
// files with OwnerXattr. The server opens none of them.
func (w *worker) mknod(a *args) ([]byte, syscall.Errno) {
	mode, rdev, umask, _ := a.u32(), a.u32(), a.u32(), a.u32()
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	typ := mode & unix.S_IFMT
	if typ == 0 {
		typ = unix.S_IFREG
	}
	mode = mode&0o7777 | typ
	s := w.srv
	virtual := s.cfg.Owner == OwnerXattr
	switch typ {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		rdev = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		if !virtual {
			return nil, syscall.EPERM
		}
	default:
		return nil, syscall.EINVAL
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	host := s.birthMode(mode, umask, false)
	if virtual {
		typ = unix.S_IFREG
	}
	if errno := mknodAt(dir, name, typ|host); errno != 0 {
		return nil, errno
	}
	if virtual || host&s.umask != 0 {
		if errno := w.bornAt(dir, name, 0, mode, umask, rdev); errno != 0 {
			return nil, errno
		}
	}
	return w.entry(n, dir, name)
}

// keep returns the node of a name that is about to go or to change, pinned and if
// possible with its descriptor, or nil if the guest does not know it. last says that
// it has no other name.
func (w *worker) keep(n *node, dir int, name cstring) (kept *node, last bool) {
	t := &w.srv.nodes
	if statAt(dir, name, &w.st) != 0 {
		return nil, false
	}
	if kept = t.pin(t.known(&w.st)); kept == nil {
		return nil, false
	}
	last = w.st.Nlink == 1 || kept.typ == unix.S_IFDIR
	for _, place := range []bool{false, true} {
		if place { // the host has moved it here
			t.seen(kept, n.id, name.text())
		}
		held, _, errno := t.hold(kept.id)
		if errno == 0 {
			t.unpin(held)
		}
		if errno != syscall.ESTALE {
			break
		}
	}
	return kept, last
}

func (w *worker) unlink(a *args, flags int) ([]byte, syscall.Errno) {
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.nodes.unpin(n)
	gone, last := w.keep(n, dir, name)
	defer w.srv.nodes.unpin(gone)
	if errno := unlinkAt(dir, name, flags); errno != 0 {
		return nil, errno
	}
	w.srv.nodes.unlinked(gone, n.id, name.text(), last)
	return nil, 0
}

// rename is FUSE_RENAME, and FUSE_RENAME2 with flags.
func (w *worker) rename(a *args, two bool) ([]byte, syscall.Errno) {
	to, flags := a.u64(), uint32(0)
	if two {
		flags, _ = a.u32(), a.u32()
	}
	old, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	name, errno := a.name()
	switch {
	case errno != 0:
		return nil, errno
	case flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0: // RENAME_WHITEOUT makes a device
		return nil, syscall.EINVAL
	}
	t := &w.srv.nodes
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer t.unpin(n)
	n2, dir2, errno := w.folder(to)
	if errno != 0 {
		return nil, errno
	}
	defer t.unpin(n2)
	moved, _ := w.keep(n, dir, old)
	defer t.unpin(moved)
	target, last := w.keep(n2, dir2, name)
	defer t.unpin(target)
	if errno := renameAt(dir, old, dir2, name, flags); errno != 0 {
		return nil, errno
	}
	switch {
	case moved == target: // two names of one file: nothing happened
		return nil, 0
	case flags&unix.RENAME_EXCHANGE != 0:
		t.renamed(target, n2.id, name.text(), n.id, old.text())
	default:
		t.unlinked(target, n2.id, name.text(), last)
	}
	t.renamed(moved, n.id, old.text(), n2.id, name.text())
	return nil, 0
}

func (w *worker) link(a *args) ([]byte, syscall.Errno) {
	old := a.u64()
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	s := w.srv
	if s.single && old == rootID {
		return nil, syscall.EPERM
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	o, fd, errno := s.nodes.hold(old)
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(o)
	if o.typ == unix.S_IFDIR {
		return nil, syscall.EPERM
	}
	if errno := linkAt(s.proc, fdName(&w.proc, fd), dir, name); errno != 0 {
		return nil, errno
	}
	s.nodes.linkedAs(o, n.id, name.text())
	return w.entry(n, dir, name)
}
