package fs

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// copyMost is how much one COPY_FILE_RANGE copies at most, so that the queue does
// not wait long; the guest asks for the rest.
const copyMost = 64 << 20

// openFlags are the flags that the host's file is opened with. What is about the
// guest's own page cache and descriptors stays there.
func (s *server) openFlags(flags uint32) (host int, errno syscall.Errno) {
	acc := int(flags) & unix.O_ACCMODE
	if acc == unix.O_ACCMODE {
		return 0, syscall.EINVAL
	}
	if s.cfg.Writeback && acc == unix.O_WRONLY { // pages that are written in part are read first
		acc = unix.O_RDWR
	}
	return acc | int(flags)&(unix.O_TRUNC|unix.O_SYNC|unix.O_DSYNC), 0
}

func (w *worker) open(a *args) ([]byte, syscall.Errno) {
	flags, more := a.u32(), a.u32()
	if a.short {
		return nil, syscall.EINVAL
	}
	return w.openNode(w.h.node(), flags, more, w.out[:openOutSize])
}

// openNode opens a regular file and stores struct fuse_open_out.
func (w *worker) openNode(id uint64, flags, more uint32, out []byte) ([]byte, syscall.Errno) {
	s := w.srv
	host, errno := s.openFlags(flags)
	switch {
	case errno != 0:
		return nil, errno
	case s.cfg.ReadOnly && (host&unix.O_ACCMODE != unix.O_RDONLY || host&unix.O_TRUNC != 0):
		return nil, syscall.EROFS
	case s.single && id == rootID:
		return nil, syscall.EISDIR
	case s.handles.full():
		return nil, syscall.ENFILE
	}
	n, fd, errno := s.nodes.hold(id)
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	if n.typ == unix.S_IFDIR {
		return nil, syscall.EISDIR
	}
	f, errno := s.reopen(n, fd, host)
	if errno == syscall.EACCES && s.cfg.Writeback && flags&unix.O_ACCMODE == unix.O_WRONLY {
		f, errno = s.reopen(n, fd, host&^unix.O_ACCMODE|unix.O_WRONLY)
	}
	if errno != 0 {
		return nil, errno
	}
	if host&unix.O_TRUNC != 0 && more&openKillPriv != 0 {
		if errno := w.killPriv(n, f); errno != 0 {
			closeFD(f)
			return nil, errno
		}
	}
	return out, w.opened(n, f, flags, out)
}

// opened takes over a held node's open file and stores struct fuse_open_out.
func (w *worker) opened(n *node, f int, flags uint32, out []byte) syscall.Errno {
	s := w.srv
	if errno := statAt(f, empty, &w.st); errno != 0 {
		closeFD(f)
		return errno
	}
	// Whatever changes the contents changes ctime.
	same := s.nodes.open(n, (uint64(w.st.Ctime.Sec)*1e9+uint64(w.st.Ctime.Nsec))^w.st.Size<<40)
	h := &handle{fd: f, node: n, write: flags&unix.O_ACCMODE != unix.O_RDONLY, append: flags&unix.O_APPEND != 0 && !s.cfg.Writeback,
		sync: flags&(unix.O_SYNC|unix.O_DSYNC) != 0}
	id, errno := s.handles.add(h)
	if errno != 0 {
		s.handles.drop(h)
		return errno
	}
	reply := uint32(0)
	switch {
	case s.cfg.Cache == CacheNone:
		reply = replyDirectIO
	case s.cfg.Cache == CacheAlways || same:
		reply = replyKeepCache
	}
	le.PutUint64(out[0:], id)
	le.PutUint32(out[8:], reply)
	le.PutUint32(out[12:], 0)
	return 0
}

func (w *worker) create(a *args) ([]byte, syscall.Errno) {
	flags, mode, umask, more := a.u32(), a.u32(), a.u32(), a.u32()
	name, errno := a.name()
	if errno != 0 {
		return nil, errno
	}
	s := w.srv
	host, errno := s.openFlags(flags)
	switch {
	case errno != 0:
		return nil, errno
	case s.handles.full():
		return nil, syscall.ENFILE
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	mode = mode&0o7777 | unix.S_IFREG
	out := w.out[:entrySize+openOutSize]
	// Always exclusively, because what is there already may be something that may
	// not be opened. The host can make and remove it as it likes meanwhile.
	for range 16 {
		f, errno := s.openIn(dir, name, host&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY,
			s.birthMode(mode, umask, false))
		switch {
		case errno == 0:
			if errno := w.born(f, dir, mode, umask, 0); errno != 0 {
				closeFD(f)
				return nil, errno
			}
			return out, w.createdFile(n.id, name.text(), f, flags, out)
		case s.exhausted(errno):
			continue
		case errno != syscall.EEXIST || flags&unix.O_EXCL != 0:
			return nil, errno
		}
		errno = w.fillEntry(out[:entrySize], n, dir, name)
		if errno == syscall.ENOENT {
			continue
		} else if errno != 0 {
			return nil, errno
		}
		id := le.Uint64(out)
		if _, errno := w.openNode(id, flags, more, out[entrySize:]); errno != 0 {
			s.nodes.forget(id, 1) // the guest does not learn of it
			return nil, errno
		}
		return out, 0
	}
	return nil, syscall.EAGAIN
}

// createdFile takes over a new file that is open, and answers with entry and
// open file.
func (w *worker) createdFile(parent uint64, name []byte, f int, flags uint32, out []byte) syscall.Errno {
	s := w.srv
	errno := statAt(f, empty, &w.st)
	if errno != 0 {
		closeFD(f)
		return errno
	}
	at := s.shown(&w.st, f)
	id, _, errno := s.nodes.enter(parent, name, &w.st)
	if errno != 0 {
		closeFD(f)
		return errno
	}
	s.putEntry(out[:entrySize], id, &w.st, at, false)
	n := s.nodes.pin(id)
	if n == nil { // forgotten by another queue at once
		closeFD(f)
		return syscall.ESTALE
	}
	defer s.nodes.unpin(n)
	path, errno := openat(s.proc, fdName(&w.proc, f), unix.O_PATH)
	if errno == 0 {
		_, errno = s.nodes.install(n, path)
	}
	if errno != 0 {
		closeFD(f)
	} else {
		errno = w.opened(n, f, flags, out[entrySize:])
	}
	if errno != 0 {
		s.nodes.forget(id, 1)
	}
	return errno
}

func (w *worker) tmpfile(a *args) ([]byte, syscall.Errno) {
	flags, mode, umask, _ := a.u32(), a.u32(), a.u32(), a.u32()
	if a.short {
		return nil, syscall.EINVAL
	}
	s := w.srv
	host, errno := s.openFlags(flags)
	switch {
	case errno != 0:
		return nil, errno
	case s.handles.full():
		return nil, syscall.ENFILE
	}
	n, dir, errno := w.folder(w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	mode = mode&0o7777 | unix.S_IFREG
	f, errno := s.openIn(dir, dot, host&^unix.O_TRUNC|unix.O_TMPFILE, s.birthMode(mode, umask, false))
	if errno != 0 {
		return nil, errno
	}
	if errno := w.born(f, dir, mode, umask, 0); errno != 0 {
		closeFD(f)
		return nil, errno
	}
	out := w.out[:entrySize+openOutSize]
	if errno := w.createdFile(n.id, nil, f, flags, out); errno != 0 {
		return nil, errno
	}
	s.nodes.nameless(le.Uint64(out))
	return out, 0
}

// read moves file contents to what follows the header in guest RAM.
func (w *worker) read(c *queue.Chain) (int, syscall.Errno) {
	a := w.body(c)
	fh, off, size := a.u64(), a.u64(), a.u32()
	if a.short || int64(off) < 0 {
		return 0, syscall.EINVAL
	}
	h, errno := w.srv.handles.hold(fh, w.h.node())
	if errno != 0 {
		return 0, errno
	}
	defer w.srv.handles.drop(h)
	if h.dir {
		return 0, syscall.EISDIR
	}
	n := min(int(min(size, maxTransfer)), queue.Len(c.Writable)-outHeaderSize) // hasRoom saw that of the header
	return transfer(unix.SYS_PREADV, h.fd, w.iov[:], c.Writable, outHeaderSize, n, int64(off), 0)
}

// write moves what follows the request in guest RAM to a file.
func (w *worker) write(a *args, c *queue.Chain) ([]byte, syscall.Errno) {
	fh, off, size, flags := a.u64(), a.u64(), a.u32(), a.u32()
	if a.short || int64(off) < 0 || size > maxTransfer || w.h.len() < headerSize+writeInSize+size {
		return nil, syscall.EINVAL
	}
	h, errno := w.srv.handles.hold(fh, w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(h)
	if h.dir || !h.write {
		return nil, syscall.EBADF
	}
	if flags&writeKillPriv != 0 {
		if errno := w.killPriv(h.node, h.fd); errno != 0 {
			return nil, errno
		}
	}
	nr, iov, how := uintptr(unix.SYS_PWRITEV), w.iov[:iovWrite], 0
	if h.sync { // each call waits for the disk
		iov = w.iov[:]
	}
	if h.append && flags&writeCache == 0 { // at the end as the host knows it, and so in one piece
		nr, iov, how = unix.SYS_PWRITEV2, w.iov[:], unix.RWF_APPEND
	}
	n, errno := transfer(nr, h.fd, iov, c.Readable, headerSize+writeInSize, int(size), int64(off), how)
	if errno != 0 {
		return nil, errno
	}
	w.dev.count.wrote.Add(uint64(n))
	out := w.out[:8]
	le.PutUint64(out, uint64(n))
	return out, 0
}

func (w *worker) release(a *args) ([]byte, syscall.Errno) {
	fh := a.u64()
	if a.short {
		return nil, syscall.EINVAL
	}
	h, errno := w.srv.handles.remove(fh, w.h.node())
	if errno != 0 {
		return nil, errno
	}
	w.srv.handles.drop(h)
	w.srv.locks.wake()
	return nil, 0
}

// flush comes for each close(2) of a guest's process, and is about its shared
// locks. Without those the kernel need not wait for it, and does not ask again.
func (w *worker) flush(a *args) ([]byte, syscall.Errno) {
	if !w.srv.cfg.SharedLocks {
		return nil, syscall.ENOSYS
	}
	_, _, owner := a.u64(), a.u64(), a.u64()
	if a.short {
		return nil, syscall.EINVAL
	}
	w.srv.locks.release(w.h.node(), owner)
	return nil, 0
}

func (w *worker) fsync(a *args) ([]byte, syscall.Errno) {
	fh, flags := a.u64(), a.u32()
	if a.short {
		return nil, syscall.EINVAL
	}
	h, errno := w.srv.handles.hold(fh, w.h.node())
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(h)
	w.signal() // it may take long
	switch {
	case h.fd < 0 || w.srv.cfg.ReadOnly:
		return nil, 0
	case flags&fsyncData != 0:
		return nil, errnoOf(unix.Fdatasync(h.fd))
	}
	return nil, errnoOf(unix.Fsync(h.fd))
}

func (w *worker) syncfs() ([]byte, syscall.Errno) {
	s := w.srv
	if s.cfg.ReadOnly {
		return nil, 0
	}
	id := uint64(rootID)
	if s.single {
		id = fileID
	}
	n, fd, errno := s.nodes.hold(id)
	if errno != 0 {
		return nil, errno
	}
	defer s.nodes.unpin(n)
	f, errno := s.reopen(n, fd, unix.O_RDONLY)
	if errno != 0 {
		return nil, errno
	}
	defer closeFD(f)
	w.signal()
	return nil, errnoOf(unix.Syncfs(f))
}

// held is the regular file of a request, to be dropped.
func (w *worker) held(fh, node uint64, write bool) (*handle, syscall.Errno) {
	h, errno := w.srv.handles.hold(fh, node)
	if errno != 0 {
		return nil, errno
	}
	if h.dir || write && !h.write {
		w.srv.handles.drop(h)
		return nil, syscall.EBADF
	}
	return h, 0
}

func (w *worker) fallocate(a *args) ([]byte, syscall.Errno) {
	fh, off, n, mode := a.u64(), a.u64(), a.u64(), a.u32()
	if a.short || int64(off) < 0 || int64(n) <= 0 {
		return nil, syscall.EINVAL
	}
	if mode&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		return nil, syscall.EOPNOTSUPP
	}
	h, errno := w.held(fh, w.h.node(), true)
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(h)
	w.signal()
	for {
		if errno := errnoOf(unix.Fallocate(h.fd, mode, int64(off), int64(n))); errno != syscall.EINTR {
			return nil, errno
		}
	}
}

func (w *worker) lseek(a *args) ([]byte, syscall.Errno) {
	fh, off, whence := a.u64(), a.u64(), a.u32()
	if a.short || whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return nil, syscall.EINVAL
	}
	h, errno := w.held(fh, w.h.node(), false)
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(h)
	at, err := unix.Seek(h.fd, int64(off), int(whence)) // nothing else uses the position
	if err != nil {
		return nil, errnoOf(err)
	}
	out := w.out[:8]
	le.PutUint64(out, uint64(at))
	return out, 0
}

func (w *worker) copyFileRange(a *args) ([]byte, syscall.Errno) {
	fhIn, offIn, nodeOut, fhOut, offOut, n, flags := a.u64(), a.u64(), a.u64(), a.u64(), a.u64(), a.u64(), a.u64()
	if a.short || flags != 0 || int64(offIn) < 0 || int64(offOut) < 0 {
		return nil, syscall.EINVAL
	}
	in, errno := w.held(fhIn, w.h.node(), false)
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(in)
	to, errno := w.held(fhOut, nodeOut, true)
	if errno != 0 {
		return nil, errno
	}
	defer w.srv.handles.drop(to)
	w.signal()
	k, errno := copyRange(in.fd, int64(offIn), to.fd, int64(offOut), int(min(n, copyMost)))
	if errno != 0 {
		return nil, errno
	}
	w.dev.count.wrote.Add(uint64(k))
	out := w.out[:8]
	le.PutUint64(out, uint64(k))
	return out, 0
}
