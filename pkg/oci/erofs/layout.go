package erofs

import (
	"fmt"
	"slices"
	"strings"
)

// place is where an inode and its data are in the index. It is filled in by
// layout and used by write.
type place struct {
	list     []named // of a directory, sorted, with "." and ".."
	pos      int64   // of the inode, bytes; 0: not placed yet
	data     int64   // of whole blocks in the index, bytes
	ino      uint32  // sequence number
	inlined  uint16  // bytes of data behind the inode
	format   uint8   // data layout
	extended bool
}

// named is an entry of a directory.
type named struct {
	name string
	ino  *inode
}

// layout decides where everything goes. The index is
//
//	block 0: header at 0, superblock at 1024, parts at 1152, then inodes
//	inodes, in the order of visit, with small data behind each
//	data blocks of large directories
//
// Inodes of a directory follow it in the order of their names, so that a
// listing reads neighbouring blocks; subdirectories come after them.
type layout struct {
	root    *inode
	order   []*inode
	size    int64 // of the index
	sec     int64 // modification time that compact inodes have
	nsec    uint32
	chunked bool
}

// newLayout places the tree behind a table of parts. It fails if the index
// would have more than max bytes.
func newLayout(root *inode, parts int, max int64) (*layout, error) {
	l := &layout{root: root}
	l.visit(root)
	l.chooseTime()
	pos := align(int64(partOffset+parts*partSize), slotSize)
	for _, n := range l.order {
		pos = l.place(n, pos)
		if pos > max {
			return nil, fmt.Errorf("index of more than %d bytes: %w", max, ErrLimit)
		}
	}
	data := align(pos, BlockSize)
	for _, n := range l.order {
		if blocks := n.indexBlocks(); blocks > 0 {
			n.data = data
			data += blocks * BlockSize
		}
	}
	if data > max {
		return nil, fmt.Errorf("index of %d bytes: %w", data, ErrLimit)
	}
	l.size = data
	return l, nil
}

// visit lists the inodes reachable from dir, each once.
func (l *layout) visit(dir *inode) {
	l.add(dir)
	list := make([]named, 0, len(dir.children)+2)
	list = append(list, named{".", dir}, named{"..", dir.parent})
	for name, d := range dir.children {
		list = append(list, named{name, d.ino})
	}
	slices.SortFunc(list, func(a, b named) int { return strings.Compare(a.name, b.name) })
	dir.list = list
	for _, e := range list {
		if e.ino.ino == 0 && !e.ino.isDir() {
			l.add(e.ino)
		}
	}
	if dir.nlink == 0 {
		return
	}
	for _, e := range list {
		if e.ino.ino == 0 { // subdirectories; "." and ".." have been visited
			l.visit(e.ino)
		}
	}
}

func (l *layout) add(n *inode) {
	l.order = append(l.order, n)
	n.ino = uint32(len(l.order))
}

// chooseTime picks the most frequent modification time: inodes that have it
// need 32 bytes instead of 64.
func (l *layout) chooseTime() {
	type stamp struct {
		sec  int64
		nsec uint32
	}
	count := make(map[stamp]int)
	best, most := stamp{}, 0
	for _, n := range l.order {
		if !n.fitsCompact() {
			continue
		}
		s := stamp{n.sec, n.nsec}
		count[s]++
		c := count[s]
		earlier := s.sec < best.sec || s.sec == best.sec && s.nsec < best.nsec
		if c > most || c == most && earlier {
			best, most = s, c
		}
	}
	l.sec, l.nsec = best.sec, best.nsec
}

// links returns st_nlink.
func (n *inode) links() uint32 {
	if n.isDir() {
		return n.nlink + 2
	}
	return n.nlink
}

// fitsCompact tells whether all but the time fits erofs_inode_compact.
func (n *inode) fitsCompact() bool {
	return n.uid <= 0xffff && n.gid <= 0xffff && n.links() <= 0xffff && n.size <= 0xffffffff
}

func (n *inode) headerSize() int64 {
	size := int64(compactSize)
	if n.extended {
		size = extendedSize
	}
	return size + xattrBodySize(n.xattrs)
}

// place puts n at pos or soon behind it and returns where the next one may go.
func (l *layout) place(n *inode, pos int64) int64 {
	if n.isDir() {
		n.size = dirSize(n.list)
	}
	n.extended = !n.fitsCompact() || n.sec != l.sec || n.nsec != l.nsec
	header := n.headerSize()
	tail := n.tail()
	switch {
	case n.sparse != nil:
		l.chunked = true
		n.format = layoutChunk
		pos = fitBlock(pos, extendedSize)
		n.pos = pos
		return align(pos+header+4*int64(n.chunks()), slotSize)
	case tail > 0 && header+tail <= BlockSize:
		// Inline data must not cross a block (erofs_map_blocks_flatmode).
		n.format = layoutInline
		n.inlined = uint16(tail)
		pos = fitBlock(pos, header+tail)
	default:
		n.format = layoutPlain
		pos = fitBlock(pos, extendedSize)
	}
	n.pos = pos
	return align(pos+header+int64(n.inlined), slotSize)
}

// fitBlock returns pos, or the next block if n bytes at pos would cross into it.
func fitBlock(pos, n int64) int64 {
	if pos&(BlockSize-1)+n > BlockSize {
		return align(pos, BlockSize)
	}
	return pos
}

// tail returns how much data could go behind the inode: the last, partial
// block of what is kept in the index.
func (n *inode) tail() int64 {
	if n.isDir() {
		return int64(n.size & (BlockSize - 1))
	}
	return int64(len(n.content))
}

// indexBlocks returns the whole blocks of data that n has in the index.
func (n *inode) indexBlocks() int64 {
	if !n.isDir() && n.content == "" {
		return 0
	}
	return (int64(n.size) - int64(n.inlined) + BlockSize - 1) >> blockBits
}

// chunks returns the number of chunks of a sparse file.
func (n *inode) chunks() uint64 {
	shift := blockBits + n.sparse.bits
	c := n.size >> shift
	if n.size&(1<<shift-1) != 0 {
		c++
	}
	return c
}

// dirSize returns the size of a directory: entries and names fill blocks, and
// none crosses into the next.
func dirSize(list []named) uint64 {
	var full, used uint64
	for i := range list {
		need := uint64(direntSize + len(list[i].name))
		if used+need > BlockSize {
			full += BlockSize
			used = 0
		}
		used += need
	}
	return full + used
}
