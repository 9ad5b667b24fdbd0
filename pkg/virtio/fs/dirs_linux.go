package fs

import (
	"bytes"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	dentsSize = 16 << 10 // of the host's entries read at once
	dentsMin  = 320      // the longest one
	dentFixed = 19       // struct linux_dirent64 before the name
)

func (w *worker) opendir() ([]byte, syscall.Errno) {
	s := w.srv
	if s.handles.full() {
		return nil, syscall.ENFILE
	}
	h := &handle{fd: -1, dir: true, pos: -1}
	single := s.single && w.h.node() == rootID
	if single {
		h.node = s.nodes.pin(rootID)
		defer s.nodes.unpin(h.node)
	} else {
		n, fd, errno := w.folder(w.h.node())
		if errno != 0 {
			return nil, errno
		}
		defer s.nodes.unpin(n)
		h.node = n
		if h.fd, errno = s.reopen(n, fd, unix.O_RDONLY|unix.O_DIRECTORY); errno != 0 {
			return nil, errno
		}
	}
	s.nodes.open(h.node, 0)
	id, errno := s.handles.add(h)
	if errno != 0 {
		s.handles.drop(h)
		return nil, errno
	}
	out := w.out[:openOutSize]
	clear(out)
	le.PutUint64(out[0:], id)
	if s.cfg.Cache == CacheAlways {
		le.PutUint32(out[8:], replyKeepCache|replyCacheDir)
	}
	return out, 0
}

// dent is one entry of the host's folder.
type dent struct {
	ino  uint64
	off  int64
	typ  byte
	name cstring
}

// nextDent takes the first of the entries that getdents64(2) gave.
func nextDent(p []byte) (d dent, rest []byte) {
	n := int(le.Uint16(p[16:]))
	d = dent{le.Uint64(p), int64(le.Uint64(p[8:])), p[18], cstring(p[dentFixed:n])}
	d.name = d.name[:bytes.IndexByte(d.name, 0)+1]
	return d, p[n:]
}

// readdir is FUSE_READDIR and FUSE_READDIRPLUS. Offsets are the host's own; one
// that means nothing to it is its business.
func (w *worker) readdir(a *args, room int, plus bool) ([]byte, syscall.Errno) {
	fh, off, size := a.u64(), a.u64(), a.u32()
	if a.short || int64(off) < 0 {
		return nil, syscall.EINVAL
	}
	s := w.srv
	h, errno := s.handles.hold(fh, w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.handles.drop(h)
	if !h.dir {
		return nil, syscall.ENOTDIR
	}
	out := entries{w: w, h: h, buf: w.buffer(int(min(uint32(room), size))), plus: plus}
	if h.fd < 0 {
		return out.single(off), 0
	}
	if w.dir == nil {
		w.dir = make([]byte, dentsSize)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := int64(off)
	for {
		if h.pos != at {
			if _, err := unix.Seek(h.fd, at, unix.SEEK_SET); err != nil {
				h.pos = -1
				return nil, errnoOf(err)
			}
		}
		h.pos = -1
		left := len(out.buf) - out.n
		n, errno := getdents(h.fd, w.dir[:min(len(w.dir), max(dentsMin, left/out.growth()))])
		switch {
		case errno != 0 && out.n == 0:
			return nil, errno
		case errno != 0 || n == 0:
			return out.buf[:out.n], 0
		}
		for p := w.dir[:n]; len(p) > 0; {
			var d dent
			d, p = nextDent(p)
			if !out.add(d) {
				if out.n == 0 {
					return nil, syscall.EINVAL // no room for a single one
				}
				return out.buf[:out.n], 0
			}
			at = d.off
		}
		h.pos = at
		if len(out.buf)-out.n < len(out.buf)/3 {
			return out.buf[:out.n], 0
		}
	}
}

// entries is an answer under construction.
type entries struct {
	w    *worker
	h    *handle
	buf  []byte
	n    int
	plus bool
}

// growth is about how much longer an entry gets for the guest.
func (e *entries) growth() int {
	if e.plus {
		return 5
	}
	return 1
}

// add appends an entry of the host's folder, if there is room.
func (e *entries) add(d dent) bool {
	name := d.name.text()
	p := e.room(len(name))
	if p == nil {
		return false
	}
	if dots := name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.'); dots {
		if len(name) == 2 && e.h.node.id == rootID { // what is above is not the guest's business
			d.ino = e.h.node.key.ino
		}
	} else {
		if e.plus && e.w.fillEntry(p[:entrySize], e.h.node, e.h.fd, d.name) != 0 {
			clear(p[:entrySize]) // the guest will ask again, and be told why
		}
		if e.w.srv.cfg.Owner == OwnerXattr && d.typ == unix.DT_REG { // or anything
			d.typ = unix.DT_UNKNOWN
		}
	}
	e.put(p, d)
	return true
}

// room returns zeroed space for struct fuse_dirent or fuse_direntplus, or nil.
func (e *entries) room(name int) []byte {
	need := direntSize + name
	if e.plus {
		need += entrySize
	}
	need = (need + 7) &^ 7
	if need > len(e.buf)-e.n {
		return nil
	}
	p := e.buf[e.n : e.n+need]
	clear(p)
	return p
}

// put stores struct fuse_dirent at the end of p, and counts it.
func (e *entries) put(p []byte, d dent) {
	e.n += len(p)
	if e.plus {
		p = p[entrySize:]
	}
	le.PutUint64(p[0:], d.ino)
	le.PutUint64(p[8:], uint64(d.off))
	le.PutUint32(p[16:], uint32(len(d.name.text())))
	le.PutUint32(p[20:], uint32(d.typ))
	copy(p[direntSize:], d.name.text())
}

// single lists the folder around a single file, which the guest has to look up.
func (e *entries) single(off uint64) []byte {
	all := []dent{
		{rootID, 1, unix.DT_DIR, cstring(".\x00")},
		{rootID, 2, unix.DT_DIR, cstring("..\x00")},
		{fileID, 3, unix.DT_REG, cstring(e.w.srv.file + "\x00")},
	}
	for _, d := range all[min(off, uint64(len(all))):] {
		p := e.room(len(d.name.text()))
		if p == nil {
			break
		}
		e.put(p, d)
	}
	return e.buf[:e.n]
}
