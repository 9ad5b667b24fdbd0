package fs

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	statVersion = 1
	statSize    = 20 // version, mode, uid, gid, rdev; le32 each
)

// statXattr keeps what the host's user cannot give a file, with [OwnerXattr].
var statXattr = cstring(xattrOf + "stat\x00")

// shown says what the guest sees of what st describes. With OwnerXattr, fd is
// the O_PATH descriptor of it.
func (s *server) shown(st *unix.Statx_t, fd int) attr {
	a := s.plain(st)
	typ := a.mode & unix.S_IFMT
	if s.cfg.Owner != OwnerXattr || typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return a
	}
	if v, ok := s.readStat(fd, typ); ok {
		return v
	}
	return a
}

// plain is what the guest sees without an attribute of ours.
func (s *server) plain(st *unix.Statx_t) attr {
	a := attr{mode: uint32(st.Mode), uid: nobody, gid: nobody}
	uid, gid := s.dev.mapped()
	if st.Uid == s.uid {
		a.uid = uid
	}
	if st.Gid == s.gid {
		a.gid = gid
	}
	// A set-id bit of the host's file would make it one of another user here.
	if a.mode&unix.S_IFMT == unix.S_IFDIR {
		a.mode &^= unix.S_ISUID
	} else {
		a.mode &^= setIDs
	}
	return a
}

// readStat reads our attribute of a regular file or folder. What it says is the
// guest's own word, and is believed only as far as it cannot confuse the server.
func (s *server) readStat(fd int, typ uint32) (attr, bool) {
	buf := new([statSize + 1]byte) // on the heap, for getXattrAt
	n, errno := s.xattrOf(fd, typ, statXattr, buf[:])
	if errno != 0 || n != statSize || le.Uint32(buf[0:]) != statVersion {
		return attr{}, false
	}
	a := attr{mode: le.Uint32(buf[4:]) & 0o177777, uid: le.Uint32(buf[8:]), gid: le.Uint32(buf[12:]), rdev: le.Uint32(buf[16:])}
	switch t := a.mode & unix.S_IFMT; {
	case t == typ:
	case typ == unix.S_IFREG && (t == unix.S_IFCHR || t == unix.S_IFBLK || t == unix.S_IFIFO || t == unix.S_IFSOCK):
	default:
		return attr{}, false
	}
	return a, true
}

// xattrOf reads an attribute of what fd, an O_PATH descriptor, is: a regular file
// or folder. The value must not be on a stack.
func (s *server) xattrOf(fd int, typ uint32, name cstring, value []byte) (n int, errno syscall.Errno) {
	errno = syscall.ENOSYS
	if !s.noAt.Load() {
		var path [16]byte
		if n, errno = getXattrAt(s.proc, fdName(&path, fd), name, value); errno == syscall.ENOSYS {
			s.noAt.Store(true)
		}
	}
	if errno == syscall.ENOSYS || errno == syscall.EPERM { // EPERM: of a seccomp filter that does not know it
		probe := node{typ: typ}
		f, errno := s.reopen(&probe, fd, unix.O_RDONLY)
		if errno != 0 {
			return 0, errno
		}
		defer closeFD(f)
		return xattrCall(unix.SYS_FGETXATTR, f, name, value, 0)
	}
	return n, errno
}

// hostMode is the mode that a file gets on the host for the one that the guest
// asked for.
func (s *server) hostMode(mode uint32, dir bool) uint32 {
	switch {
	case s.cfg.Owner == OwnerXattr && dir:
		return mode&0o777 | 0o700 // the guest's root is not kept out
	case s.cfg.Owner == OwnerXattr:
		return mode&0o777 | 0o600
	case dir:
		return mode & (0o777 | unix.S_ISVTX | unix.S_ISGID)
	}
	return mode & (0o777 | unix.S_ISVTX)
}

// birthMode is hostMode for what is about to be made, before born says more.
func (s *server) birthMode(mode, umask uint32, dir bool) uint32 {
	if s.acls() { // or else the guest's kernel has done so
		mode &^= umask & 0o777
	}
	return s.hostMode(mode, dir)
}

// setOwner changes mode and owner of a held inode.
func (w *worker) setOwner(n *node, fd int, valid, mode, uid, gid uint32) syscall.Errno {
	s := w.srv
	virtual := s.cfg.Owner == OwnerXattr
	switch {
	case virtual && (n.typ == unix.S_IFREG || n.typ == unix.S_IFDIR):
		if errno := statAt(fd, empty, &w.st); errno != 0 {
			return errno
		}
		a := s.shown(&w.st, fd)
		if valid&setUID != 0 {
			a.uid = uid
		}
		if valid&setGID != 0 {
			a.gid = gid
		}
		if n.typ != unix.S_IFDIR && valid&(setUID|setGID|setKillPriv) != 0 {
			a.mode = killed(a.mode)
		}
		if valid&setMode != 0 {
			a.mode = a.mode&unix.S_IFMT | mode&0o7777
		}
		f, errno := s.reopen(n, fd, unix.O_RDONLY)
		if errno != 0 {
			return errno
		}
		defer closeFD(f)
		if valid&setMode != 0 {
			if errno := w.chmodACL(f, mode); errno != 0 {
				return errno
			}
		}
		return w.storeTo(f, n.typ == unix.S_IFDIR, &w.st, a)
	case valid&setMode != 0 && n.typ == unix.S_IFLNK:
		return syscall.EOPNOTSUPP
	case valid&setMode != 0:
		return chmodAt(s.proc, fdName(&w.proc, fd), s.hostMode(mode, n.typ == unix.S_IFDIR))
	}
	// The owner of everything is the host's user, and stays it.
	return 0
}

// killed is a mode without the set-id bits that a change by somebody else clears.
func killed(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// storeTo makes a regular file or folder of the host, which is open, appear as a.
// st is what the host says of it.
func (w *worker) storeTo(f int, dir bool, st *unix.Statx_t, a attr) syscall.Errno {
	s := w.srv
	m := s.hostMode(a.mode, dir)
	if m&0o070 != 0 {
		// Of an ACL the host knows nothing, so the bits are for the group alone.
		if acl, ok := w.readACL(f, accessACL); ok {
			m &= acl.owners() | ^uint32(0o070)
		}
	}
	if m != uint32(st.Mode)&0o7777 {
		if errno := errnoOf(unix.Fchmod(f, m)); errno != 0 {
			return errno
		}
		st.Mode = st.Mode&unix.S_IFMT | uint16(m)
	}
	if s.plain(st) == a {
		// What the host says is enough.
		if errno := removeXattr(f, statXattr); errno != 0 && errno != syscall.ENODATA && errno != syscall.EOPNOTSUPP {
			return errno
		}
		return 0
	}
	var buf [statSize]byte
	for i, v := range [...]uint32{statVersion, a.mode, a.uid, a.gid, a.rdev} {
		le.PutUint32(buf[4*i:], v)
	}
	_, errno := xattrCall(unix.SYS_FSETXATTR, f, statXattr, buf[:], 0)
	return errno
}

// born gives a new file or folder the mode and owner that the guest's process
// asked for. f is open, with OwnerXattr not just as a path; dirFD is the folder
// it is in. The umask is that process's.
func (w *worker) born(f, dirFD int, mode, umask, rdev uint32) syscall.Errno {
	s := w.srv
	if errno := statAt(f, empty, &w.st); errno != 0 {
		return errno
	}
	dir := w.st.Mode&unix.S_IFMT == unix.S_IFDIR
	if s.cfg.Owner != OwnerXattr {
		// The process's umask took bits away; a set-gid folder hands its bit down.
		want := s.hostMode(mode, dir) | uint32(w.st.Mode)&unix.S_ISGID
		if have := uint32(w.st.Mode) & 0o7777; have == want {
			return 0
		}
		return chmodAt(s.proc, fdName(&w.proc, f), want)
	}
	if s.acls() {
		var errno syscall.Errno
		if mode, errno = w.inherit(f, dirFD, mode, umask); errno != 0 {
			return errno
		}
	}
	a := attr{mode: mode, uid: w.h.uid(), gid: w.h.gid(), rdev: rdev}
	st := w.st
	if errno := statAt(dirFD, empty, &w.st); errno != 0 {
		return errno
	}
	if p := s.shown(&w.st, dirFD); p.mode&unix.S_ISGID != 0 { // inode_init_owner
		a.gid = p.gid
		if dir {
			a.mode |= unix.S_ISGID
		}
	}
	return w.storeTo(f, dir, &st, a)
}

// killPriv clears set-id bits of a file that somebody else than its owner
// changes, where the host's kernel does not.
func (w *worker) killPriv(n *node, f int) syscall.Errno {
	s := w.srv
	if s.cfg.Owner == OwnerXattr {
		if errno := statAt(f, empty, &w.st); errno != 0 {
			return errno
		}
		_, fd, errno := s.nodes.hold(n.id)
		if errno != 0 {
			return errno
		}
		defer s.nodes.unpin(n)
		a := s.shown(&w.st, fd)
		if m := killed(a.mode); m != a.mode {
			a.mode = m
			return w.storeTo(f, false, &w.st, a)
		}
		return 0
	}
	if !s.fsetid {
		return 0
	}
	if errno := statAt(f, empty, &w.st); errno != 0 {
		return errno
	}
	if mode := uint32(w.st.Mode) & 0o7777; mode != killed(mode) {
		return errnoOf(unix.Fchmod(f, killed(mode)))
	}
	return 0
}
