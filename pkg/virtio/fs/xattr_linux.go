package fs

import (
	"bytes"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Of a guest's extended attributes, those named user. are the host's, but for our
// own. With OwnerXattr the others (security.capability, trusted.overlay.*) are
// kept under a name of ours, where they mean nothing to the host.
var (
	userPrefix    = []byte("user.")
	ownPrefix     = []byte(xattrOf)
	foreignPrefix = []byte(xattrOf + "x.")
	systemPrefix  = []byte("system.")
)

// xattrName takes a name and returns the host's for it.
func (s *server) xattrName(a *args) (cstring, syscall.Errno) {
	name, ok := a.string()
	p := name
	switch {
	case !ok || a.short || len(name) == 1:
		return nil, syscall.EINVAL
	case len(name.text()) > nameMax:
		return nil, syscall.ERANGE
	case s.cfg.NoXattr:
		return nil, syscall.ENOSYS // so that no kernel asks again
	case s.acls() && string(p) == string(foreign(accessACL)):
		return accessACL, 0
	case s.acls() && string(p) == string(foreign(defaultACL)):
		return defaultACL, 0
	case bytes.HasPrefix(p, systemPrefix):
		return nil, syscall.EOPNOTSUPP
	case bytes.HasPrefix(p, ownPrefix):
		return nil, syscall.EPERM
	case bytes.HasPrefix(p, userPrefix):
		return name, 0
	case s.cfg.Owner != OwnerXattr:
		return nil, syscall.EOPNOTSUPP
	}
	name = append(append(cstring(nil), foreignPrefix...), name...)
	if len(name.text()) > nameMax {
		return nil, syscall.ERANGE
	}
	return name, 0
}

// foreign is what the guest calls an attribute that is kept under a name of ours.
func foreign(name []byte) []byte { return name[len(foreignPrefix):] }

// guestName is the reverse of xattrName; nil means that the guest may not see it.
func (s *server) guestName(name []byte) []byte {
	if bytes.HasPrefix(name, ownPrefix) {
		switch {
		case s.cfg.Owner != OwnerXattr, !bytes.HasPrefix(name, foreignPrefix):
			return nil
		case bytes.HasPrefix(foreign(name), systemPrefix) && !s.acls():
			return nil
		}
		return foreign(name)
	}
	if bytes.HasPrefix(name, userPrefix) {
		return name
	}
	return nil
}

// openForXattr opens what a request is about. Links and special files have no
// attributes that their owner could set.
func (w *worker) openForXattr() (int, syscall.Errno) {
	s := w.srv
	if s.single && w.h.node() == rootID {
		return -1, syscall.EOPNOTSUPP
	}
	n, fd, errno := s.nodes.hold(w.h.node())
	if errno != 0 {
		return -1, errno
	}
	defer s.nodes.unpin(n)
	if n.typ != unix.S_IFREG && n.typ != unix.S_IFDIR {
		return -1, syscall.EOPNOTSUPP
	}
	return s.reopen(n, fd, unix.O_RDONLY)
}

func (w *worker) setxattr(a *args, c *queue.Chain) ([]byte, syscall.Errno) {
	size, flags := a.u32(), a.u32()
	fixed, more := 8, uint32(0)
	if w.srv.flags.Load()&initSetxattrExt != 0 {
		more, _ = a.u32(), a.u32()
		fixed = 16
	}
	before := len(a.p)
	name, errno := w.srv.xattrName(a)
	switch {
	case errno != 0:
		return nil, errno
	case size > xattrMax:
		return nil, syscall.E2BIG
	}
	off := headerSize + fixed + before - len(a.p)
	if uint64(off)+uint64(size) > uint64(w.h.len()) {
		return nil, syscall.EINVAL
	}
	value := w.buffer(int(size))
	queue.GatherAt(value, c.Readable, off)
	if isACL(name) {
		return nil, w.setACL(name, value, more&setxattrACLKillSGID != 0)
	}
	f, errno := w.openForXattr()
	if errno != 0 {
		return nil, errno
	}
	defer closeFD(f)
	_, errno = xattrCall(unix.SYS_FSETXATTR, f, name, value, flags)
	return nil, errno
}

func (w *worker) getxattr(a *args, room int) ([]byte, syscall.Errno) {
	size, _ := a.u32(), a.u32()
	name, errno := w.srv.xattrName(a)
	if errno != 0 {
		return nil, errno
	}
	f, errno := w.openForXattr()
	if errno != 0 {
		return nil, errno
	}
	defer closeFD(f)
	var value []byte
	if size > 0 {
		value = w.buffer(min(int(min(size, xattrMax)), room))
		if len(value) == 0 {
			return nil, syscall.ERANGE
		}
	}
	n, errno := xattrCall(unix.SYS_FGETXATTR, f, name, value, 0)
	switch {
	case errno != 0:
		return nil, errno
	case size == 0:
		return w.sizeOut(n), 0
	}
	return value[:n], 0
}

// sizeOut answers with struct fuse_getxattr_out.
func (w *worker) sizeOut(n int) []byte {
	out := w.out[:8]
	le.PutUint64(out, uint64(n))
	return out
}

func (w *worker) listxattr(a *args, room int) ([]byte, syscall.Errno) {
	size := a.u32()
	if a.short {
		return nil, syscall.EINVAL
	}
	if w.srv.cfg.NoXattr {
		return nil, syscall.ENOSYS
	}
	f, errno := w.openForXattr()
	if errno == syscall.EOPNOTSUPP { // none, then
		return w.listOut(size, room, nil)
	} else if errno != 0 {
		return nil, errno
	}
	defer closeFD(f)
	p := w.buffer(xattrMax)
	n, errno := listXattr(f, p)
	if errno != 0 {
		return nil, errno
	}
	k := 0
	for rest := p[:n]; len(rest) > 0; {
		name, after, _ := bytes.Cut(rest, []byte{0})
		if g := w.srv.guestName(name); g != nil {
			k += copy(p[k:], g) // never beyond name, which is not shorter
			p[k] = 0
			k++
		}
		rest = after
	}
	return w.listOut(size, room, p[:k])
}

func (w *worker) listOut(size uint32, room int, list []byte) ([]byte, syscall.Errno) {
	switch {
	case size == 0:
		return w.sizeOut(len(list)), 0
	case len(list) > int(min(size, xattrMax)) || len(list) > room:
		return nil, syscall.ERANGE
	}
	return list, 0
}

func (w *worker) removexattr(a *args) ([]byte, syscall.Errno) {
	name, errno := w.srv.xattrName(a)
	if errno != 0 {
		return nil, errno
	}
	f, errno := w.openForXattr()
	if errno != 0 {
		return nil, errno
	}
	defer closeFD(f)
	errno = removeXattr(f, name)
	if errno == syscall.ENODATA && isACL(name) { // it says no more than the mode now, as before
		errno = 0
	}
	return nil, errno
}
