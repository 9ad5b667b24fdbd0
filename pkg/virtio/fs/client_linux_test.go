package fs_test

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

var le = binary.LittleEndian

const ring = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

const ( // linux/fuse.h
	opLookup        = 1
	opForget        = 2
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetxattr      = 21
	opGetxattr      = 22
	opListxattr     = 23
	opRemovexattr   = 24
	opFlush         = 25
	opInit          = 26
	opOpendir       = 27
	opReaddir       = 28
	opReleasedir    = 29
	opFsyncdir      = 30
	opGetlk         = 31
	opSetlk         = 32
	opSetlkw        = 33
	opCreate        = 35
	opInterrupt     = 36
	opDestroy       = 38
	opBatchForget   = 42
	opFallocate     = 43
	opReaddirplus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
	opSetupmapping  = 48
	opSyncfs        = 50
	opTmpfile       = 51
	opStatx         = 52

	root = 1
)

// guest is a FUSE client like the guest's kernel, without its manners. It belongs
// to one goroutine.
type guest struct {
	t        testing.TB
	d        *virtiotest.Driver
	in, out  guestmem.GPA
	unique   uint64
	q        int
	uid, gid uint32
	umask    uint32
	pages    bool // contents lie in single pages, as a kernel's do
	flags    uint64
}

const space = 2 << 20 // of requests, and of answers

func newDevice(t testing.TB, c fs.Config) *fs.Device {
	t.Helper()
	if c.Tag == "" {
		c.Tag = "share"
	}
	d, err := fs.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// mount starts a device under a guest that has mounted it. In a booted guest it is
// the device that the host has made for the test (guest_hostile_linux_test.go).
func mount(t testing.TB, c fs.Config) *guest {
	t.Helper()
	var d *virtiotest.Driver
	if pastKernel() {
		d = openGuest(t, c)
	} else {
		d = virtiotest.Attach(t, newDevice(t, c))
	}
	d.Up(ring)
	g := newGuest(d)
	g.init()
	return g
}

func newGuest(d *virtiotest.Driver) *guest {
	return &guest{t: d.T, d: d, in: d.Alloc(space), out: d.Alloc(space), q: 1}
}

// pack builds the body of a request.
func pack(vals ...any) []byte {
	var p []byte
	for _, v := range vals {
		switch v := v.(type) {
		case uint32:
			p = le.AppendUint32(p, v)
		case int:
			p = le.AppendUint32(p, uint32(v))
		case uint64:
			p = le.AppendUint64(p, v)
		case string:
			p = append(append(p, v...), 0)
		case []byte:
			p = append(p, v...)
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	return p
}

// put writes a request to guest RAM and returns its length.
func (g *guest) put(op uint32, node uint64, body []byte) uint32 {
	g.unique += 2
	n := uint32(40 + len(body))
	p := g.d.Bytes(g.in, int(n))
	clear(p[:40])
	le.PutUint32(p[0:], n)
	le.PutUint32(p[4:], op)
	le.PutUint64(p[8:], g.unique)
	le.PutUint64(p[16:], node)
	le.PutUint32(p[24:], g.uid)
	le.PutUint32(p[28:], g.gid)
	copy(p[40:], body)
	return n
}

// bufs lays n bytes out as a kernel would: the first of them apart.
func (g *guest) bufs(at guestmem.GPA, first, n uint32, write bool) (b []virtiotest.Buf) {
	piece := first
	for n > 0 {
		k := min(n, piece)
		b = append(b, virtiotest.Buf{Addr: at, Len: k, Write: write})
		at, n = at+guestmem.GPA(k), n-k
		piece = n
		if g.pages {
			piece = 4096
		}
	}
	return b
}

// call does a request with room for an answer of so many bytes.
func (g *guest) call(op uint32, node uint64, body []byte, room int) ([]byte, syscall.Errno) {
	g.t.Helper()
	n := g.put(op, node, body)
	first := uint32(40)
	if op == opWrite {
		first = 80
	}
	bufs := g.bufs(g.in, first, n, false)
	answer := op != opForget && op != opBatchForget
	if answer {
		bufs = append(bufs, g.bufs(g.out, 16, uint32(16+room), true)...)
	}
	used := g.d.Do(g.q, bufs...)
	if !answer {
		require.Zero(g.t, used)
		return nil, 0
	}
	return g.reply(used)
}

func (g *guest) reply(used uint32) ([]byte, syscall.Errno) {
	g.t.Helper()
	h := g.d.Bytes(g.out, 16)
	if used < 16 || le.Uint32(h) != used || le.Uint64(h[8:]) != g.unique {
		g.t.Fatalf("answer of %d bytes says %d, to %d, not %d", used, le.Uint32(h), le.Uint64(h[8:]), g.unique)
	}
	if e := -int32(le.Uint32(h[4:])); e != 0 {
		if used != 16 || e < 0 || e > 4095 {
			g.t.Fatalf("error %d in %d bytes", e, used)
		}
		return nil, syscall.Errno(e)
	}
	return g.d.Bytes(g.out+16, int(used-16)), 0
}

// must is call for what succeeds.
func (g *guest) must(op uint32, node uint64, body []byte, room int) []byte {
	g.t.Helper()
	p, errno := g.call(op, node, body, room)
	require.Zero(g.t, errno, "operation %d on node %d: %v", op, node, errno)
	return p
}

var everyFlag = uint64(1)<<31 - 1 | 0x1ff<<32

func (g *guest) init() {
	g.t.Helper()
	g.initWith(everyFlag)
}

func (g *guest) initWith(flags uint64) {
	g.t.Helper()
	flags |= 1 << 30
	p := g.must(opInit, 0, pack(7, 41, 1<<17, uint32(flags), uint32(flags>>32), make([]byte, 44)), 64)
	require.Len(g.t, p, 64)
	require.EqualValues(g.t, 7, le.Uint32(p))
	g.flags = uint64(le.Uint32(p[12:])) | uint64(le.Uint32(p[32:]))<<32
	require.Zero(g.t, g.flags&^flags)
}

// stat is struct fuse_attr.
type stat struct {
	ino, size      uint64
	mode, nlink    uint32
	uid, gid, rdev uint32
	mtime          uint64
	mtimens        uint32
	flags          uint32
	blocks, atime  uint64
	entryValid     uint64
}

func parseAttr(p []byte) stat {
	return stat{
		ino: le.Uint64(p), size: le.Uint64(p[8:]), blocks: le.Uint64(p[16:]), atime: le.Uint64(p[24:]), mtime: le.Uint64(p[32:]),
		mtimens: le.Uint32(p[52:]), mode: le.Uint32(p[60:]), nlink: le.Uint32(p[64:]), uid: le.Uint32(p[68:]), gid: le.Uint32(p[72:]),
		rdev: le.Uint32(p[76:]), flags: le.Uint32(p[84:]),
	}
}

func parseEntry(p []byte) (uint64, stat) {
	s := parseAttr(p[40:])
	s.entryValid = le.Uint64(p[16:])
	return le.Uint64(p), s
}

func (g *guest) entry(op uint32, node uint64, body []byte) (uint64, stat, syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(op, node, body, 128)
	if errno != 0 {
		return 0, stat{}, errno
	}
	require.Len(g.t, p, 128)
	id, s := parseEntry(p)
	return id, s, 0
}

func (g *guest) lookup(dir uint64, name string) (uint64, stat, syscall.Errno) {
	g.t.Helper()
	return g.entry(opLookup, dir, pack(name))
}

func (g *guest) find(dir uint64, name string) uint64 {
	g.t.Helper()
	id, _, errno := g.lookup(dir, name)
	require.Zero(g.t, errno, "%s: %v", name, errno)
	return id
}

func (g *guest) getattr(node uint64) (stat, syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(opGetattr, node, pack(0, 0, uint64(0)), 104)
	if errno != 0 {
		return stat{}, errno
	}
	require.Len(g.t, p, 104)
	return parseAttr(p[16:]), 0
}

func (g *guest) forget(node, n uint64) { g.call(opForget, node, pack(n), 0) }

func (g *guest) open(node uint64, flags int) (uint64, uint32, syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(opOpen, node, pack(flags, 0), 16)
	if errno != 0 {
		return 0, 0, errno
	}
	require.Len(g.t, p, 16)
	return le.Uint64(p), le.Uint32(p[8:]), 0
}

func (g *guest) create(dir uint64, name string, flags int, mode uint32) (node, fh uint64, errno syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(opCreate, dir, pack(flags, mode, g.umask, 0, name), 144)
	if errno != 0 {
		return 0, 0, errno
	}
	require.Len(g.t, p, 144)
	return le.Uint64(p), le.Uint64(p[128:]), 0
}

func (g *guest) read(node, fh, off uint64, n int) ([]byte, syscall.Errno) {
	g.t.Helper()
	return g.call(opRead, node, pack(fh, off, n, 0, uint64(0), 0, 0), n)
}

func (g *guest) write(node, fh, off uint64, p []byte) (int, syscall.Errno) {
	g.t.Helper()
	out, errno := g.call(opWrite, node, pack(fh, off, len(p), 0, uint64(0), 0, 0, p), 8)
	if errno != 0 {
		return 0, errno
	}
	return int(le.Uint32(out)), 0
}

func (g *guest) release(node, fh uint64) syscall.Errno {
	_, errno := g.call(opRelease, node, pack(fh, 0, 0, uint64(0)), 0)
	return errno
}

// setattr sets what valid says; other fields are zero.
type changes struct {
	valid            uint32
	fh, size         uint64
	atime, mtime     uint64
	atimens, mtimens uint32
	mode, uid, gid   uint32
}

func (g *guest) setattr(node uint64, c changes) (stat, syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(opSetattr, node, pack(c.valid, 0, c.fh, c.size, uint64(0), c.atime, c.mtime, uint64(0), c.atimens, c.mtimens, 0,
		c.mode, 0, c.uid, c.gid, 0), 104)
	if errno != 0 {
		return stat{}, errno
	}
	return parseAttr(p[16:]), 0
}

func (g *guest) mkdir(dir uint64, name string, mode uint32) (uint64, stat, syscall.Errno) {
	g.t.Helper()
	return g.entry(opMkdir, dir, pack(mode, g.umask, name))
}

func (g *guest) simple(op uint32, node uint64, body []byte) syscall.Errno {
	g.t.Helper()
	_, errno := g.call(op, node, body, 0)
	return errno
}

// dirent is struct fuse_dirent.
type dirent struct {
	ino, off uint64
	typ      uint32
	name     string
	node     uint64
	stat     stat
}

// list reads a folder, with answers of at most n bytes.
func (g *guest) list(node uint64, op uint32, n int) (all []dirent) {
	g.t.Helper()
	p := g.must(opOpendir, node, pack(0, 0), 16)
	fh := le.Uint64(p)
	off := uint64(0)
	for {
		part, errno := g.readdir(node, fh, off, op, n)
		require.Zero(g.t, errno)
		if len(part) == 0 {
			break
		}
		all = append(all, part...)
		off = part[len(part)-1].off
	}
	require.Zero(g.t, g.simple(opReleasedir, node, pack(fh, 0, 0, uint64(0))))
	return all
}

func (g *guest) readdir(node, fh, off uint64, op uint32, n int) (all []dirent, errno syscall.Errno) {
	g.t.Helper()
	p, errno := g.call(op, node, pack(fh, off, n, 0, uint64(0), 0, 0), n)
	if errno != 0 {
		return nil, errno
	}
	require.LessOrEqual(g.t, len(p), n)
	for len(p) > 0 {
		var d dirent
		if op == opReaddirplus {
			d.node, d.stat = parseEntry(p)
			p = p[128:]
		}
		k := int(le.Uint32(p[16:]))
		d.ino, d.off, d.typ, d.name = le.Uint64(p), le.Uint64(p[8:]), le.Uint32(p[20:]), string(p[24:24+k])
		all = append(all, d)
		p = p[(24+k+7)&^7:]
	}
	return all, 0
}
