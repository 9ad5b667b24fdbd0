package fs

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

var le = binary.LittleEndian

// opcode is the operation of a request (linux/fuse.h, enum fuse_opcode).
type opcode uint32

const (
	opLookup        opcode = 1
	opForget        opcode = 2 // no reply
	opGetattr       opcode = 3
	opSetattr       opcode = 4
	opReadlink      opcode = 5
	opSymlink       opcode = 6
	opMknod         opcode = 8
	opMkdir         opcode = 9
	opUnlink        opcode = 10
	opRmdir         opcode = 11
	opRename        opcode = 12
	opLink          opcode = 13
	opOpen          opcode = 14
	opRead          opcode = 15
	opWrite         opcode = 16
	opStatfs        opcode = 17
	opRelease       opcode = 18
	opFsync         opcode = 20
	opSetxattr      opcode = 21
	opGetxattr      opcode = 22
	opListxattr     opcode = 23
	opRemovexattr   opcode = 24
	opFlush         opcode = 25
	opInit          opcode = 26
	opOpendir       opcode = 27
	opReaddir       opcode = 28
	opReleasedir    opcode = 29
	opFsyncdir      opcode = 30
	opGetlk         opcode = 31
	opSetlk         opcode = 32
	opSetlkw        opcode = 33
	opCreate        opcode = 35
	opInterrupt     opcode = 36
	opDestroy       opcode = 38
	opBatchForget   opcode = 42
	opFallocate     opcode = 43
	opReaddirplus   opcode = 44
	opRename2       opcode = 45
	opLseek         opcode = 46
	opCopyFileRange opcode = 47
	opSyncfs        opcode = 50
	opTmpfile       opcode = 51
	opStatx         opcode = 52
)

const ( // FUSE_INIT flags (linux/fuse.h)
	initAsyncRead      uint64 = 1 << 0
	initPosixLocks     uint64 = 1 << 1
	initAtomicTrunc    uint64 = 1 << 3
	initBigWrites      uint64 = 1 << 5
	initDontMask       uint64 = 1 << 6
	initFlockLocks     uint64 = 1 << 10
	initAutoInvalData  uint64 = 1 << 12
	initReaddirplus    uint64 = 1 << 13
	initAsyncDIO       uint64 = 1 << 15
	initWriteback      uint64 = 1 << 16
	initParallelDirops uint64 = 1 << 18
	initPosixACL       uint64 = 1 << 20
	initMaxPages       uint64 = 1 << 22
	initCacheSymlinks  uint64 = 1 << 23
	initSubmounts      uint64 = 1 << 27
	initKillprivV2     uint64 = 1 << 28
	initSetxattrExt    uint64 = 1 << 29
	initExt            uint64 = 1 << 30
	initDirectMmap     uint64 = 1 << 36
	initNoExport       uint64 = 1 << 38
)

const ( // flags of single operations (linux/fuse.h)
	setMode      = 1 << 0 // FATTR_*
	setUID       = 1 << 1
	setGID       = 1 << 2
	setSize      = 1 << 3
	setAtime     = 1 << 4
	setMtime     = 1 << 5
	setFH        = 1 << 6
	setAtimeNow  = 1 << 7
	setMtimeNow  = 1 << 8
	setCtime     = 1 << 10
	setKillPriv  = 1 << 11
	getattrFH    = 1 << 0
	openKillPriv = 1 << 0 // FUSE_OPEN_KILL_SUIDGID

	replyDirectIO  = 1 << 0 // FOPEN_*
	replyKeepCache = 1 << 1
	replyCacheDir  = 1 << 3

	writeCache    = 1 << 0
	writeKillPriv = 1 << 2
	fsyncData     = 1 << 0
	lockFlock     = 1 << 0
	releaseUnlock = 1 << 1
	attrSubmount  = 1 << 0

	setxattrACLKillSGID = 1 << 0
)

const (
	protocolMajor = 7
	protocolMinor = 39 // FUSE_STATX
	oldestMinor   = 31 // the first with virtio-fs

	rootID = 1 // FUSE_ROOT_ID

	headerSize    = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header
	attrSize      = 88 // struct fuse_attr
	entrySize     = 40 + attrSize
	openOutSize   = 16
	direntSize    = 24 // without the name
	writeInSize   = 40

	nameMax   = 255
	targetMax = 4095     // of a symbolic link, without its NUL
	xattrMax  = 64 << 10 // XATTR_SIZE_MAX and XATTR_LIST_MAX

	maxTransfer = 1 << 20 // bytes of one READ or WRITE
	maxPages    = maxTransfer / 4096
	maxBody     = 8 << 10 // the fixed parts and names of any request, with room to spare
	maxReply    = 64 << 10
)

// header is a private copy of struct fuse_in_header.
type header [headerSize]byte

func (h *header) len() uint32    { return le.Uint32(h[0:]) }
func (h *header) op() opcode     { return opcode(le.Uint32(h[4:])) }
func (h *header) unique() uint64 { return le.Uint64(h[8:]) }
func (h *header) node() uint64   { return le.Uint64(h[16:]) }
func (h *header) uid() uint32    { return le.Uint32(h[24:]) }
func (h *header) gid() uint32    { return le.Uint32(h[28:]) }

// cstring is a string of bytes for the host's kernel: the last one, and no other, is NUL.
type cstring []byte

// text is the string without its NUL.
func (s cstring) text() []byte { return s[:len(s)-1] }

// args reads the body of a request, which is a private copy. Reading beyond its
// end gives zeroes and marks it short.
type args struct {
	p     []byte
	short bool
}

func (a *args) u32() uint32 {
	if len(a.p) < 4 {
		a.p, a.short = nil, true
		return 0
	}
	v := le.Uint32(a.p)
	a.p = a.p[4:]
	return v
}

func (a *args) u64() uint64 {
	if len(a.p) < 8 {
		a.p, a.short = nil, true
		return 0
	}
	v := le.Uint64(a.p)
	a.p = a.p[8:]
	return v
}

// string takes what comes before the next NUL.
func (a *args) string() (cstring, bool) {
	i := bytes.IndexByte(a.p, 0)
	if i < 0 {
		a.p, a.short = nil, true
		return nil, false
	}
	s := cstring(a.p[: i+1 : i+1])
	a.p = a.p[i+1:]
	return s, true
}

// name takes the name of a directory entry. Whatever could lead elsewhere is
// refused here, whether a guest's kernel would send it or not.
func (a *args) name() (cstring, syscall.Errno) {
	s, ok := a.string()
	if !ok || a.short {
		return nil, syscall.EINVAL
	}
	return s, checkName(s.text())
}

func checkName(p []byte) syscall.Errno {
	switch {
	case len(p) > nameMax:
		return syscall.ENAMETOOLONG
	case len(p) == 0, bytes.IndexByte(p, '/') >= 0, bytes.IndexByte(p, 0) >= 0,
		len(p) == 1 && p[0] == '.', len(p) == 2 && p[0] == '.' && p[1] == '.':
		return syscall.EINVAL
	}
	return 0
}

// putReply stores an answer to a request at the start of a chain's writable part
// and returns the number of bytes. What does not fit becomes an error; what has
// no room even for that, nothing.
func putReply(out [][]byte, unique uint64, errno syscall.Errno, payload []byte) uint32 {
	room := queue.Len(out)
	if room < outHeaderSize {
		return 0
	}
	if errno == 0 && len(payload) > room-outHeaderSize {
		errno = syscall.EINVAL
	}
	if errno != 0 {
		payload = nil
	}
	putOutHeader(out, unique, errno, len(payload))
	scatterAt(out, outHeaderSize, payload)
	return uint32(outHeaderSize + len(payload))
}

// putOutHeader stores struct fuse_out_header.
func putOutHeader(out [][]byte, unique uint64, errno syscall.Errno, n int) {
	var h [outHeaderSize]byte
	le.PutUint32(h[0:], uint32(outHeaderSize+n))
	le.PutUint32(h[4:], uint32(-int32(errno)))
	le.PutUint64(h[8:], unique)
	queue.Scatter(out, h[:])
}

// scatterAt copies p to an offset into a vector, as far as there is room.
func scatterAt(out [][]byte, off int, p []byte) {
	for _, b := range out {
		if off >= len(b) {
			off -= len(b)
			continue
		}
		n := copy(b[off:], p)
		p, off = p[n:], 0
		if len(p) == 0 {
			return
		}
	}
}
