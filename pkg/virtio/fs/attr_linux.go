package fs

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// attr is what the guest is shown of an inode.
type attr struct {
	mode, uid, gid, rdev uint32
}

const (
	nobody  = 65534
	setIDs  = unix.S_ISUID | unix.S_ISGID
	day     = 86400
	xattrOf = "user.boxlite." // names that the guest does not see
)

// entry looks a name up, counts that, and answers with struct fuse_entry_out.
func (w *worker) entry(parent *node, dir int, name cstring) ([]byte, syscall.Errno) {
	out := w.out[:entrySize]
	return out, w.fillEntry(out, parent, dir, name)
}

func (w *worker) fillEntry(out []byte, parent *node, dir int, name cstring) syscall.Errno {
	s := w.srv
	var a attr
	if s.cfg.Owner == OwnerXattr { // which is read from an open file
		fd, errno := s.openPath(dir, name)
		if errno != 0 {
			return errno
		}
		defer closeFD(fd)
		if errno := statAt(fd, empty, &w.st); errno != 0 {
			return errno
		}
		a = s.shown(&w.st, fd)
	} else {
		if errno := statAt(dir, name, &w.st); errno != 0 {
			return errno
		}
		a = s.shown(&w.st, -1)
	}
	if s.hidden(&w.st) {
		return syscall.ENOENT
	}
	id, submount, errno := s.nodes.enter(parent.id, name.text(), &w.st)
	if errno != 0 {
		return errno
	}
	s.putEntry(out, id, &w.st, a, submount)
	return 0
}

// hidden reports whether something lies on another file system that is not shared.
func (s *server) hidden(st *unix.Statx_t) bool {
	if !s.cfg.OneFileSystem {
		return false
	}
	s.nodes.mu.Lock()
	defer s.nodes.mu.Unlock()
	return s.nodes.keyOf(st).mount != 0
}

// putEntry stores struct fuse_entry_out.
func (s *server) putEntry(out []byte, id uint64, st *unix.Statx_t, a attr, submount bool) {
	sec := s.validity()
	le.PutUint64(out[0:], id)
	le.PutUint64(out[8:], 0) // generation: ids are never used again
	le.PutUint64(out[16:], sec)
	le.PutUint64(out[24:], sec)
	le.PutUint64(out[32:], 0)
	putAttr(out[40:], st, a)
	if submount && s.flags.Load()&initSubmounts != 0 {
		le.PutUint32(out[40+84:], attrSubmount)
	}
}

// validity is for how many seconds names and attributes may be believed.
func (s *server) validity() uint64 {
	switch s.cfg.Cache {
	case CacheNone:
		return 0
	case CacheAlways:
		return day
	}
	return 1
}

// putAttr stores struct fuse_attr.
func putAttr(p []byte, st *unix.Statx_t, a attr) {
	le.PutUint64(p[0:], st.Ino)
	le.PutUint64(p[8:], st.Size)
	le.PutUint64(p[16:], st.Blocks)
	le.PutUint64(p[24:], uint64(st.Atime.Sec))
	le.PutUint64(p[32:], uint64(st.Mtime.Sec))
	le.PutUint64(p[40:], uint64(st.Ctime.Sec))
	le.PutUint32(p[48:], st.Atime.Nsec)
	le.PutUint32(p[52:], st.Mtime.Nsec)
	le.PutUint32(p[56:], st.Ctime.Nsec)
	le.PutUint32(p[60:], a.mode)
	le.PutUint32(p[64:], st.Nlink)
	le.PutUint32(p[68:], a.uid)
	le.PutUint32(p[72:], a.gid)
	le.PutUint32(p[76:], a.rdev)
	le.PutUint32(p[80:], st.Blksize)
	le.PutUint32(p[84:], 0)
}

// attrOut answers with struct fuse_attr_out.
func (w *worker) attrOut(st *unix.Statx_t, a attr) []byte {
	out := w.out[:16+attrSize]
	le.PutUint64(out[0:], w.srv.validity())
	le.PutUint64(out[8:], 0)
	putAttr(out[16:], st, a)
	return out
}

// stat fills w.st for the request's inode.
func (w *worker) stat() (attr, syscall.Errno) {
	s := w.srv
	if s.single && w.h.node() == rootID {
		return w.statSingleRoot()
	}
	n, fd, errno := s.nodes.hold(w.h.node())
	if errno != 0 {
		return attr{}, errno
	}
	defer s.nodes.unpin(n)
	return w.statNode(fd)
}

func (w *worker) statNode(fd int) (attr, syscall.Errno) {
	if errno := statAt(fd, empty, &w.st); errno != 0 {
		return attr{}, errno
	}
	return w.srv.shown(&w.st, fd), 0
}

// statSingleRoot makes up the folder around a single file.
func (w *worker) statSingleRoot() (attr, syscall.Errno) {
	n, fd, errno := w.srv.nodes.hold(fileID)
	if errno != 0 {
		return attr{}, errno
	}
	defer w.srv.nodes.unpin(n)
	if errno := statAt(fd, empty, &w.st); errno != 0 {
		return attr{}, errno
	}
	w.st.Ino, w.st.Size, w.st.Blocks, w.st.Nlink = rootID, 0, 0, 2
	w.st.Mode = unix.S_IFDIR | 0o555
	uid, gid := w.dev.mapped()
	return attr{mode: unix.S_IFDIR | 0o555, uid: uid, gid: gid}, 0
}

func (w *worker) getattr(*args) ([]byte, syscall.Errno) {
	a, errno := w.stat()
	if errno != 0 {
		return nil, errno
	}
	return w.attrOut(&w.st, a), 0
}

// statx is FUSE_STATX: struct fuse_statx_out, whose second part is statx(2)'s.
func (w *worker) statx(*args) ([]byte, syscall.Errno) {
	a, errno := w.stat()
	if errno != 0 {
		return nil, errno
	}
	st, out := &w.st, w.out[:32+256]
	clear(out)
	le.PutUint64(out[0:], w.srv.validity())
	p := out[32:]
	le.PutUint32(p[0:], st.Mask&(unix.STATX_BASIC_STATS|unix.STATX_BTIME))
	le.PutUint32(p[4:], st.Blksize)
	le.PutUint32(p[16:], st.Nlink)
	le.PutUint32(p[20:], a.uid)
	le.PutUint32(p[24:], a.gid)
	le.PutUint16(p[28:], uint16(a.mode))
	le.PutUint64(p[32:], st.Ino)
	le.PutUint64(p[40:], st.Size)
	le.PutUint64(p[48:], st.Blocks)
	for i, t := range [...]*unix.StatxTimestamp{&st.Atime, &st.Btime, &st.Ctime, &st.Mtime} {
		le.PutUint64(p[64+16*i:], uint64(t.Sec))
		le.PutUint32(p[72+16*i:], t.Nsec)
	}
	le.PutUint32(p[128:], unix.Major(uint64(a.rdev)))
	le.PutUint32(p[132:], unix.Minor(uint64(a.rdev)))
	return out, 0
}

func (w *worker) statfs() ([]byte, syscall.Errno) {
	s := w.srv
	id := w.h.node()
	if s.single && id == rootID {
		id = fileID
	}
	n, fd, errno := s.nodes.hold(id)
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	var f unix.Statfs_t
	if err := unix.Fstatfs(fd, &f); err != nil {
		return nil, errnoOf(err)
	}
	out := w.out[:80]
	clear(out)
	le.PutUint64(out[0:], f.Blocks)
	le.PutUint64(out[8:], f.Bfree)
	le.PutUint64(out[16:], f.Bavail)
	le.PutUint64(out[24:], f.Files)
	le.PutUint64(out[32:], f.Ffree)
	le.PutUint32(out[40:], uint32(f.Bsize))
	le.PutUint32(out[44:], nameMax)
	le.PutUint32(out[48:], uint32(f.Frsize))
	return out, 0
}

// setattr is FUSE_SETATTR. What the guest's kernel may ask for at once is done in
// the order owner, mode, size, times.
func (w *worker) setattr(a *args) ([]byte, syscall.Errno) {
	valid, _, fh, size, _ := a.u32(), a.u32(), a.u64(), a.u64(), a.u64()
	atime, mtime, _ := a.u64(), a.u64(), a.u64()
	atimens, mtimens, _ := a.u32(), a.u32(), a.u32()
	mode, _, uid, gid := a.u32(), a.u32(), a.u32(), a.u32()
	if a.short {
		return nil, syscall.EINVAL
	}
	s := w.srv
	if s.single && w.h.node() == rootID {
		return nil, syscall.EPERM
	}
	n, fd, errno := s.nodes.hold(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	if valid&(setMode|setUID|setGID|setKillPriv) != 0 {
		if errno := w.setOwner(n, fd, valid, mode, uid, gid); errno != 0 {
			return nil, errno
		}
	}
	if valid&setSize != 0 {
		if errno := w.truncate(n, fd, valid, fh, size); errno != 0 {
			return nil, errno
		}
	}
	if valid&(setAtime|setMtime) != 0 {
		now := unix.Timespec{Nsec: unix.UTIME_NOW}
		w.ts = [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		for i, t := range [...]struct {
			set, now uint32
			sec      uint64
			ns       uint32
		}{{setAtime, setAtimeNow, atime, atimens}, {setMtime, setMtimeNow, mtime, mtimens}} {
			switch {
			case valid&t.set == 0:
			case valid&t.now != 0:
				w.ts[i] = now
			case t.ns >= 1e9:
				return nil, syscall.EINVAL
			default:
				w.ts[i] = unix.Timespec{Sec: int64(t.sec), Nsec: int64(t.ns)}
			}
		}
		if errno := utimes(s.proc, fdName(&w.proc, fd), &w.ts); errno != 0 {
			return nil, errno
		}
	}
	at, errno := w.statNode(fd)
	if errno != 0 {
		return nil, errno
	}
	return w.attrOut(&w.st, at), 0
}

func (w *worker) truncate(n *node, fd int, valid uint32, fh, size uint64) syscall.Errno {
	s := w.srv
	if int64(size) < 0 {
		return syscall.EINVAL
	}
	if valid&setFH != 0 {
		h, errno := s.handles.hold(fh, n.id)
		if errno != 0 {
			return errno
		}
		defer s.handles.drop(h)
		if h.write {
			return w.truncateTo(n, h.fd, valid, size)
		}
	}
	f, errno := s.reopen(n, fd, unix.O_WRONLY)
	if errno != 0 {
		return errno
	}
	defer closeFD(f)
	return w.truncateTo(n, f, valid, size)
}

func (w *worker) truncateTo(n *node, f int, valid uint32, size uint64) syscall.Errno {
	if valid&setKillPriv != 0 {
		if errno := w.killPriv(n, f); errno != 0 {
			return errno
		}
	}
	return errnoOf(unix.Ftruncate(f, int64(size)))
}

func (w *worker) readlink() ([]byte, syscall.Errno) {
	s := w.srv
	n, fd, errno := s.nodes.hold(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	if n.typ != unix.S_IFLNK {
		return nil, syscall.EINVAL
	}
	p := w.buffer(targetMax + 1)
	k, errno := readlink(fd, p)
	if errno != 0 {
		return nil, errno
	}
	return p[:k], 0
}

// errnoOf is the number behind an error of x/sys/unix.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EIO
}
