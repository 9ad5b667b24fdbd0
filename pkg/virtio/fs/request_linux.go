package fs

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// scratch is what a worker needs for one request, so that none of it is allocated.
type scratch struct {
	srv  *server
	h    header
	in   [maxBody]byte // copy of the body, but for data of WRITE and SETXATTR
	args args
	out  [entrySize + openOutSize + 256]byte // fixed answers
	big  []byte                              // answers of any length: maxReply bytes, once needed
	dir  []byte                              // entries as the host's kernel gives them
	iov  [iovMax]unix.Iovec
	st   unix.Statx_t
	proc [16]byte
	ts   [2]unix.Timespec
	lock unix.Flock_t
	acl  [aclMost]byte
}

// handle does one request and returns the number of bytes it wrote to the chain.
// It returns false if another goroutine will answer.
func (w *worker) handle(c *queue.Chain) (written uint32, answered bool) {
	d := w.dev
	d.count.requests.Add(1)
	w.srv = d.srv
	n := c.ReadableLen()
	if queue.Gather(w.h[:], c.Readable) < headerSize || uint64(w.h.len()) < headerSize || uint64(w.h.len()) > uint64(n) {
		d.count.malformed.Add(1)
		return putReply(c.Writable, w.h.unique(), syscall.EINVAL, nil), true
	}
	op := w.h.op()
	switch op { // those without an answer
	case opForget, opBatchForget:
		w.forget(op, c)
		return 0, true
	case opInterrupt:
		body := w.body(c)
		errno := d.srv.locks.interrupt(body.u64())
		return putReply(c.Writable, w.h.unique(), errno, nil), true
	}
	if !hasRoom(c.Writable) { // it could not even be told of an error
		d.count.malformed.Add(1)
		return 0, true
	}
	if !d.srv.ready.Load() && op != opInit {
		d.count.failed.Add(1)
		return putReply(c.Writable, w.h.unique(), syscall.EIO, nil), true
	}
	switch op {
	case opRead:
		n, errno := w.read(c)
		if errno == 0 {
			putOutHeader(c.Writable, w.h.unique(), 0, n)
			d.count.read.Add(uint64(n))
			return uint32(outHeaderSize + n), true
		}
		return w.answer(c, nil, errno), true
	case opSetlkw:
		if errno, waits := w.setlkw(c); waits {
			return 0, false
		} else {
			return w.answer(c, nil, errno), true
		}
	}
	payload, errno := w.do(op, c)
	return w.answer(c, payload, errno), true
}

func (w *worker) answer(c *queue.Chain, payload []byte, errno syscall.Errno) uint32 {
	if errno != 0 {
		w.dev.failed(w.h.op(), errno)
	}
	return putReply(c.Writable, w.h.unique(), errno, payload)
}

// failed counts a request that was answered with an error, and logs those that
// the host's owner can do something about.
func (d *Device) failed(op opcode, errno syscall.Errno) {
	d.count.failed.Add(1)
	switch errno {
	case syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		d.limit.Log(d.cfg.Log, "fs: share %q: operation %d: %v", d.cfg.Tag, op, errno)
	}
}

func hasRoom(out [][]byte) bool {
	n := 0
	for _, b := range out {
		if n += len(b); n >= outHeaderSize {
			return true
		}
	}
	return false
}

// body copies what follows the header, as far as fixed parts and names may go.
func (w *worker) body(c *queue.Chain) *args {
	n := min(int(w.h.len())-headerSize, len(w.in))
	if w.h.op() == opWrite {
		n = min(n, writeInSize)
	}
	w.args = args{p: w.in[:queue.GatherAt(w.in[:n], c.Readable, headerSize)]}
	return &w.args
}

// changes reports whether an operation changes the shared folder, whatever its
// arguments. OPEN and CREATE see for themselves.
func changes(op opcode) bool {
	switch op {
	case opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opWrite, opSetxattr, opRemovexattr,
		opCreate, opFallocate, opRename2, opCopyFileRange, opTmpfile:
		return true
	}
	return false
}

// makes reports whether an operation makes an inode.
func makes(op opcode) bool {
	switch op {
	case opSymlink, opMknod, opMkdir, opCreate, opTmpfile:
		return true
	}
	return false
}

// do carries out what is answered at once, and without file contents.
func (w *worker) do(op opcode, c *queue.Chain) ([]byte, syscall.Errno) {
	if w.srv.cfg.ReadOnly && changes(op) {
		return nil, syscall.EROFS
	}
	if makes(op) && w.srv.nodes.full() { // while nothing is there yet
		return nil, syscall.ENFILE
	}
	room := queue.Len(c.Writable) - outHeaderSize
	a := w.body(c)
	switch op {
	case opInit:
		return w.init(a)
	case opDestroy:
		w.srv.clear()
		return nil, 0
	case opLookup:
		return w.lookup(a)
	case opGetattr:
		return w.getattr(a)
	case opStatx:
		return w.statx(a)
	case opSetattr:
		return w.setattr(a)
	case opReadlink:
		return w.readlink()
	case opSymlink:
		return w.symlink(a)
	case opMknod:
		return w.mknod(a)
	case opMkdir:
		return w.mkdir(a)
	case opUnlink:
		return w.unlink(a, 0)
	case opRmdir:
		return w.unlink(a, unix.AT_REMOVEDIR)
	case opRename:
		return w.rename(a, false)
	case opRename2:
		return w.rename(a, true)
	case opLink:
		return w.link(a)
	case opOpen:
		return w.open(a)
	case opCreate:
		return w.create(a)
	case opTmpfile:
		return w.tmpfile(a)
	case opWrite:
		return w.write(a, c)
	case opStatfs:
		return w.statfs()
	case opRelease, opReleasedir:
		return w.release(a)
	case opFlush:
		return w.flush(a)
	case opFsync, opFsyncdir:
		return w.fsync(a)
	case opSyncfs:
		return w.syncfs()
	case opSetxattr:
		return w.setxattr(a, c)
	case opGetxattr:
		return w.getxattr(a, room)
	case opListxattr:
		return w.listxattr(a, room)
	case opRemovexattr:
		return w.removexattr(a)
	case opOpendir:
		return w.opendir()
	case opReaddir:
		return w.readdir(a, room, false)
	case opReaddirplus:
		return w.readdir(a, room, true)
	case opFallocate:
		return w.fallocate(a)
	case opLseek:
		return w.lseek(a)
	case opCopyFileRange:
		return w.copyFileRange(a)
	case opGetlk:
		return w.getlk(a)
	case opSetlk:
		return w.setlk(a)
	}
	return nil, syscall.ENOSYS
}

// buffer returns room for n bytes of answer, at most maxReply.
func (w *worker) buffer(n int) []byte {
	if w.big == nil {
		w.big = make([]byte, maxReply)
	}
	return w.big[:min(n, maxReply)]
}

// init is FUSE_INIT: what the guest's kernel and the server agree on. A second
// one begins a session anew.
func (w *worker) init(a *args) ([]byte, syscall.Errno) {
	major, minor, readahead, flags := a.u32(), a.u32(), a.u32(), uint64(a.u32())
	if a.short {
		return nil, syscall.EINVAL
	}
	if flags&initExt != 0 && len(a.p) >= 4 {
		flags |= uint64(a.u32()) << 32
	}
	out := w.out[:64]
	clear(out)
	le.PutUint32(out[0:], protocolMajor)
	if major > protocolMajor { // it asks again with ours
		return out, 0
	}
	if major < protocolMajor || minor < oldestMinor {
		return nil, syscall.EPROTO
	}
	s := w.srv
	want := initAsyncRead | initAtomicTrunc | initBigWrites | initAsyncDIO |
		initParallelDirops | initMaxPages | initSubmounts | initKillprivV2 | initSetxattrExt | initExt | initNoExport
	switch s.cfg.Cache {
	case CacheAuto:
		want |= initAutoInvalData
	case CacheNone:
		want |= initDirectMmap
	case CacheAlways:
		want |= initCacheSymlinks
	}
	if s.cfg.Cache != CacheNone {
		// Always, not when the kernel thinks it worthwhile (FUSE_READDIRPLUS_AUTO):
		// it would ask for the attributes of the first twenty entries together, and
		// for those of all others one by one. Without a cache they come too soon.
		want |= initReaddirplus
	}
	if s.cfg.Writeback {
		want |= initWriteback
	}
	if s.cfg.SharedLocks {
		want |= initPosixLocks | initFlockLocks
	}
	if s.cfg.Owner == OwnerXattr && !s.cfg.NoXattr {
		want |= initPosixACL | initDontMask
	}
	want &= flags
	s.clear()
	s.flags.Store(want)
	s.ready.Store(true)
	le.PutUint32(out[4:], protocolMinor)
	le.PutUint32(out[8:], readahead)
	le.PutUint32(out[12:], uint32(want))
	le.PutUint16(out[16:], 128) // max_background
	le.PutUint16(out[18:], 96)  // congestion_threshold
	le.PutUint32(out[20:], maxTransfer)
	le.PutUint32(out[24:], 1) // ns
	le.PutUint16(out[28:], maxPages)
	le.PutUint32(out[32:], uint32(want>>32))
	return out, 0
}

// forget is FUSE_FORGET and FUSE_BATCH_FORGET.
func (w *worker) forget(op opcode, c *queue.Chain) {
	t := &w.srv.nodes
	a := w.body(c)
	if op == opForget {
		if n := a.u64(); !a.short {
			t.forget(w.h.node(), n)
		}
		return
	}
	count := int(a.u32())
	_ = a.u32()
	left := int(w.h.len()) - headerSize - 8
	for off := headerSize + 8; count > 0 && left >= 16 && !w.dev.stop.Load(); {
		n := min(left, len(w.in), count*16) &^ 15
		p := w.in[:queue.GatherAt(w.in[:n], c.Readable, off)]
		if len(p) < n {
			return
		}
		for ; len(p) >= 16; p = p[16:] {
			t.forget(le.Uint64(p), le.Uint64(p[8:]))
			count--
		}
		off, left = off+n, left-n
	}
}
