// Package erofstest reads EROFS images and folders for tests: a reader of its
// own that shares no code with the writer, strict where the kernel is lenient,
// and a walker of real folders, so that an image, its mount and another
// unpacker's result can be compared file by file.
//
// The reader is safe on hostile bytes: it fails, it does not panic or hang.
package erofstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const block = 4096

// ErrImage is the error of an image that breaks a rule of the format.
var ErrImage = errors.New("erofstest: bad image")

var le = binary.LittleEndian

// Image is an open image: the whole device, index and blobs.
type Image struct {
	r    io.ReaderAt
	size int64

	UUID     [16]byte
	Compat   uint32
	Incompat uint32
	Root     uint64 // node id
	Inodes   uint64
	Blocks   uint32

	// MaxHash is the size of the largest file that Walk reads; default 2 GiB.
	MaxHash uint64

	buildSec  int64
	buildNsec uint32
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrImage, fmt.Sprintf(format, args...))
}

// Open checks the superblock of a device of size bytes.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	img := &Image{r: r, size: size, MaxHash: maxHash}
	b, err := img.bytes(0, block)
	if err != nil {
		return nil, err
	}
	s := b[1024:]
	switch {
	case le.Uint32(s) != 0xE0F5E1E2:
		return nil, bad("magic %#x", le.Uint32(s))
	case s[12] != 12:
		return nil, bad("block bits %d", s[12])
	case s[13] != 0 || s[90] != 0 || le.Uint32(s[40:]) != 0:
		return nil, bad("extension slots, directory block bits or meta_blkaddr not zero")
	}
	img.Compat, img.Incompat = le.Uint32(s[8:]), le.Uint32(s[80:])
	if img.Compat != 3 || img.Incompat&^4 != 0 {
		return nil, bad("features %#x %#x", img.Compat, img.Incompat)
	}
	sum := le.Uint32(s[4:])
	le.PutUint32(s[4:], 0)
	if got := ^crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		return nil, bad("checksum %#x, want %#x", sum, got)
	}
	img.Root = uint64(le.Uint16(s[14:]))
	img.Inodes = le.Uint64(s[16:])
	img.buildSec, img.buildNsec = int64(le.Uint64(s[24:])), le.Uint32(s[32:])
	img.Blocks = le.Uint32(s[36:])
	copy(img.UUID[:], s[48:])
	if le.Uint16(s[86:]) != 0 {
		return nil, bad("%d extra devices", le.Uint16(s[86:]))
	}
	if int64(img.Blocks)*block != size {
		return nil, bad("%d blocks in a device of %d bytes", img.Blocks, size)
	}
	return img, nil
}

// bytes reads n bytes at off; anything outside the device is an error.
func (img *Image) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > img.size || n > img.size-off {
		return nil, bad("%d bytes at %d of %d", n, off, img.size)
	}
	b := make([]byte, n)
	if _, err := img.r.ReadAt(b, off); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// Inode is one inode.
type Inode struct {
	Nid      uint64
	Mode     uint16
	UID, GID uint32
	Nlink    uint32
	Size     uint64
	Sec      int64
	Nsec     uint32
	Xattrs   map[string]string
	Extended bool
	Layout   uint16 // 0 plain, 2 inline, 4 chunks

	union uint32
	body  int64 // position behind inode and attributes
}

// IsDir tells whether the inode is a directory.
func (n *Inode) IsDir() bool { return n.Mode&0xf000 == 0x4000 }

// Inode reads the inode with the given node id.
func (img *Image) Inode(nid uint64) (*Inode, error) {
	pos := int64(nid) * 32
	if nid >= uint64(img.Blocks)*block/32 {
		return nil, bad("node %d outside the index", nid)
	}
	b, err := img.bytes(pos, 32)
	if err != nil {
		return nil, err
	}
	format := le.Uint16(b)
	n := &Inode{Nid: nid, Mode: le.Uint16(b[4:]), Layout: format >> 1 & 7, Extended: format&1 != 0}
	if format>>4 != 0 || n.Layout != 0 && n.Layout != 2 && n.Layout != 4 {
		return nil, bad("node %d: format %#x", nid, format)
	}
	icount := int64(le.Uint16(b[2:]))
	n.union = le.Uint32(b[16:])
	n.body = pos + 32
	if n.Extended {
		if b, err = img.bytes(pos, 64); err != nil {
			return nil, err
		}
		n.body = pos + 64
		n.Size = le.Uint64(b[8:])
		n.UID, n.GID = le.Uint32(b[24:]), le.Uint32(b[28:])
		n.Sec, n.Nsec = int64(le.Uint64(b[32:])), le.Uint32(b[40:])
		n.Nlink = le.Uint32(b[44:])
	} else {
		n.Nlink = uint32(le.Uint16(b[6:]))
		n.Size = uint64(le.Uint32(b[8:]))
		n.UID, n.GID = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		n.Sec, n.Nsec = img.buildSec, img.buildNsec
	}
	if pos/block != (n.body-1)/block {
		return nil, bad("node %d crosses a block", nid)
	}
	if n.Size > 1<<62 || n.Nsec > 999_999_999 || n.Nlink == 0 {
		return nil, bad("node %d: size %d, nsec %d, nlink %d", nid, n.Size, n.Nsec, n.Nlink)
	}
	if icount > 0 {
		size := 12 + 4*(icount-1)
		if n.Xattrs, err = img.xattrs(n.body, size); err != nil {
			return nil, fmt.Errorf("node %d: %w", nid, err)
		}
		n.body += size
	}
	return n, nil
}

var xattrPrefix = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

func (img *Image) xattrs(pos, size int64) (map[string]string, error) {
	b, err := img.bytes(pos, size)
	if err != nil {
		return nil, err
	}
	if size <= 12 || le.Uint32(b) != 0 || b[4] != 0 {
		return nil, bad("attribute header of %d bytes", size)
	}
	out := make(map[string]string)
	for b = b[12:]; len(b) > 0; {
		name, value := int(b[0]), int(le.Uint16(b[2:]))
		n := (4 + name + value + 3) &^ 3
		prefix, ok := xattrPrefix[b[1]]
		if !ok || n > len(b) {
			return nil, bad("attribute entry %v", b[:4])
		}
		key := prefix + string(b[4:4+name])
		if _, dup := out[key]; dup {
			return nil, bad("attribute %q twice", key)
		}
		out[key] = string(b[4+name : 4+name+value])
		b = b[n:]
	}
	return out, nil
}

// Device returns the device number of a device node.
func (n *Inode) Device() (major, minor uint32) {
	d := n.union
	return d >> 8 & 0xfff, d&0xff | d>>12&^0xff
}

// extent says where a stretch of a file is: at pos of the device, or nowhere.
type extent struct {
	pos int64
	n   int64
	ok  bool
}

// extent returns the stretch that begins at off, as erofs_map_blocks does.
func (img *Image) extent(n *Inode, off int64) (extent, error) {
	size := int64(n.Size)
	switch n.Layout {
	case 4:
		if n.union>>16 != 0 || n.union&^0x1f != 0 {
			return extent{}, bad("node %d: chunk format %#x", n.Nid, n.union)
		}
		shift := 12 + n.union&0x1f
		first := off >> shift
		b, err := img.bytes(n.body+4*first, 4)
		if err != nil {
			return extent{}, err
		}
		in := off - first<<shift
		length := min((first+1)<<shift, size) - off
		addr := le.Uint32(b)
		if addr == 0xffffffff {
			return extent{n: length}, nil
		}
		return extent{int64(addr)*block + in, length, true}, nil
	case 2:
		if tail := size &^ (block - 1); off >= tail {
			pos := n.body
			if end := pos + size - tail; size == tail || pos/block != (end-1)/block {
				return extent{}, bad("node %d: inline data crosses a block", n.Nid)
			}
			return extent{pos + off - tail, size - off, true}, nil
		}
		size &^= block - 1
	}
	return extent{int64(n.union)*block + off, size - off, true}, nil
}

// ReadAt reads from a file, directory or link. It reads less than p only at
// the end of the file.
func (img *Image) ReadAt(n *Inode, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off < int64(n.Size) {
		e, err := img.extent(n, off)
		if err != nil {
			return done, err
		}
		if e.n <= 0 {
			return done, bad("node %d: empty extent", n.Nid)
		}
		part := p[done:]
		part = part[:min(int64(len(part)), e.n)]
		if !e.ok {
			clear(part)
		} else if e.pos > img.size || int64(len(part)) > img.size-e.pos {
			return done, bad("node %d: data at %d of %d", n.Nid, e.pos, img.size)
		} else if _, err := img.r.ReadAt(part, e.pos); err != nil && err != io.EOF {
			return done, err
		}
		done += len(part)
		off += int64(len(part))
	}
	return done, nil
}
