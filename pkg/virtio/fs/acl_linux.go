package fs

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// With OwnerXattr the guest's kernel keeps to POSIX ACLs (acl(5)), which lie in
// attributes of ours as it gave them, and mean nothing to the host. What is left
// to the server is to keep ACL and mode in step, and to hand a folder's default
// ACL down.
var (
	accessACL  = cstring("user.boxlite.x.system.posix_acl_access\x00")
	defaultACL = cstring("user.boxlite.x.system.posix_acl_default\x00")
)

const ( // linux/posix_acl.h, linux/posix_acl_xattr.h
	aclVersion   = 2
	aclHeader    = 4
	aclEntrySize = 8 // tag le16, permissions le16, id le32
	aclMost      = 4096

	aclUserObj  = 1 << 0
	aclUser     = 1 << 1
	aclGroupObj = 1 << 2
	aclGroup    = 1 << 3
	aclMask     = 1 << 4
	aclOther    = 1 << 5
)

// isACL reports whether the host's name of an attribute is that of an ACL.
func isACL(name cstring) bool {
	return string(name) == string(accessACL) || string(name) == string(defaultACL)
}

// acl is an ACL as attributes hold it, checked.
type acl []byte

// parseACL checks p, which the guest wrote (posix_acl_valid).
func parseACL(p []byte) (acl, bool) {
	if len(p) < aclHeader+3*aclEntrySize || len(p) > aclMost || (len(p)-aclHeader)%aclEntrySize != 0 || le.Uint32(p) != aclVersion {
		return nil, false
	}
	a, seen, last := acl(p), uint16(0), uint16(0)
	for e := a.entries(); len(e) > 0; e = e[aclEntrySize:] {
		tag := le.Uint16(e)
		single := tag == aclUserObj || tag == aclGroupObj || tag == aclMask || tag == aclOther
		switch {
		case !single && tag != aclUser && tag != aclGroup, le.Uint16(e[2:]) > 7, tag < last, single && seen&tag != 0:
			return nil, false
		}
		seen, last = seen|tag, tag
	}
	const three = aclUserObj | aclGroupObj | aclOther
	if seen&three != three || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return nil, false
	}
	return a, true
}

func (a acl) entries() []byte { return a[aclHeader:] }

// trivial reports whether it says no more than a mode does.
func (a acl) trivial() bool { return len(a) == aclHeader+3*aclEntrySize }

// entry is the one with a tag that occurs at most once, or nil.
func (a acl) entry(tag uint16) []byte {
	for e := a.entries(); len(e) > 0; e = e[aclEntrySize:] {
		if le.Uint16(e) == tag {
			return e
		}
	}
	return nil
}

// class is the entry that a mode's bits for the group stand for.
func (a acl) class() []byte {
	if e := a.entry(aclMask); e != nil {
		return e
	}
	return a.entry(aclGroupObj)
}

// mode is what a mode says in its place.
func (a acl) mode() uint32 {
	perm := func(e []byte) uint32 { return uint32(le.Uint16(e[2:])) }
	return perm(a.entry(aclUserObj))<<6 | perm(a.class())<<3 | perm(a.entry(aclOther))
}

// owners is what the group that owns the file may do, in a mode's place.
func (a acl) owners() uint32 {
	return uint32(le.Uint16(a.entry(aclGroupObj)[2:])&le.Uint16(a.class()[2:])) << 3
}

// setMode is what chmod(2) does.
func (a acl) setMode(mode uint32) {
	le.PutUint16(a.entry(aclUserObj)[2:], uint16(mode>>6&7))
	le.PutUint16(a.class()[2:], uint16(mode>>3&7))
	le.PutUint16(a.entry(aclOther)[2:], uint16(mode&7))
}

// acls reports whether the guest's kernel was told that there are ACLs.
func (s *server) acls() bool { return s.flags.Load()&initPosixACL != 0 }

// readACL reads one of the two ACLs of an open file, into w.acl.
func (w *worker) readACL(f int, name cstring) (acl, bool) {
	n, errno := xattrCall(unix.SYS_FGETXATTR, f, name, w.acl[:], 0)
	if errno != 0 {
		return nil, false
	}
	return parseACL(w.acl[:n])
}

// chmodACL keeps the ACL of an open file in step with its new mode.
func (w *worker) chmodACL(f int, mode uint32) syscall.Errno {
	a, ok := w.readACL(f, accessACL)
	if !ok {
		return 0
	}
	a.setMode(mode)
	_, errno := xattrCall(unix.SYS_FSETXATTR, f, accessACL, a, 0)
	return errno
}

// inherit gives a new file or folder that is open what the default ACL of the
// folder above says, and returns its mode; without one the process's umask
// counts, which the guest's kernel has left to the server.
func (w *worker) inherit(f, dirFD int, mode, umask uint32) (uint32, syscall.Errno) {
	n, errno := w.srv.xattrOf(dirFD, unix.S_IFDIR, defaultACL, w.acl[:])
	a, ok := acl(nil), false
	if errno == 0 {
		a, ok = parseACL(w.acl[:n])
	}
	if !ok {
		return mode &^ (umask & 0o777), 0
	}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		if _, errno := xattrCall(unix.SYS_FSETXATTR, f, defaultACL, a, 0); errno != 0 {
			return 0, errno
		}
	}
	a.setMode(a.mode() & mode) // posix_acl_create_masq
	mode = mode&^0o777 | a.mode()
	if a.trivial() {
		return mode, 0
	}
	_, errno = xattrCall(unix.SYS_FSETXATTR, f, accessACL, a, 0)
	return mode, errno
}

// setACL stores an ACL that the guest set. One that only says what a mode can say
// becomes the mode.
func (w *worker) setACL(name cstring, value []byte, killSGID bool) syscall.Errno {
	a, ok := parseACL(value)
	if !ok {
		return syscall.EINVAL
	}
	s := w.srv
	n, fd, errno := s.nodes.hold(w.h.node())
	if errno != 0 {
		return errno
	}
	defer s.nodes.unpin(n)
	access := string(name) == string(accessACL)
	if n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR || !access && n.typ != unix.S_IFDIR {
		return syscall.EOPNOTSUPP
	}
	f, errno := s.reopen(n, fd, unix.O_RDONLY)
	if errno != 0 {
		return errno
	}
	defer closeFD(f)
	if access && a.trivial() {
		if errno := removeXattr(f, name); errno != 0 && errno != syscall.ENODATA {
			return errno
		}
	} else if _, errno := xattrCall(unix.SYS_FSETXATTR, f, name, a, 0); errno != 0 || !access {
		return errno
	}
	if errno := statAt(fd, empty, &w.st); errno != 0 {
		return errno
	}
	at := s.shown(&w.st, fd)
	at.mode = at.mode&^0o777 | a.mode()
	if killSGID {
		at.mode &^= unix.S_ISGID
	}
	return w.storeTo(f, n.typ == unix.S_IFDIR, &w.st, at)
}
