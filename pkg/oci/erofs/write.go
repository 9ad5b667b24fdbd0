package erofs

// indexWriter fills in the bytes of an index.
type indexWriter struct {
	*layout
	b    []byte
	base []uint32 // first block of each layer's blob in the device
}

// write returns the bytes of the index, without what seal adds.
func (l *layout) write(base []uint32) []byte {
	w := &indexWriter{layout: l, b: make([]byte, l.size), base: base}
	for _, n := range l.order {
		w.inode(n)
	}
	return w.b
}

func (n *inode) nid() uint64 { return uint64(n.pos) / slotSize }

// inode writes erofs_inode_compact or erofs_inode_extended and what follows.
func (w *indexWriter) inode(n *inode) {
	b := w.b[n.pos:]
	format := uint16(n.format) << 1
	if n.extended {
		format |= 1
	}
	icount := uint16(0)
	if n.xattrs != "" {
		icount = uint16(1 + len(n.xattrs)/4)
	}
	le.PutUint16(b[0:], format)
	le.PutUint16(b[2:], icount)
	le.PutUint16(b[4:], n.mode)
	le.PutUint32(b[16:], w.union(n))
	le.PutUint32(b[20:], n.ino)
	if n.extended {
		le.PutUint64(b[8:], n.size)
		le.PutUint32(b[24:], n.uid)
		le.PutUint32(b[28:], n.gid)
		le.PutUint64(b[32:], uint64(n.sec))
		le.PutUint32(b[40:], n.nsec)
		le.PutUint32(b[44:], n.links())
		b = b[extendedSize:]
	} else {
		le.PutUint16(b[6:], uint16(n.links()))
		le.PutUint32(b[8:], uint32(n.size))
		le.PutUint16(b[24:], uint16(n.uid))
		le.PutUint16(b[26:], uint16(n.gid))
		b = b[compactSize:]
	}
	if n.xattrs != "" { // header: no filter, no shared attributes
		copy(b[xattrHeader:], n.xattrs)
		b = b[xattrHeader+len(n.xattrs):]
	}
	switch {
	case n.sparse != nil:
		w.chunkMap(n, b)
	case n.isDir():
		w.directory(n, b)
	case n.inlined > 0:
		copy(b, n.content)
	case n.content != "":
		copy(w.b[n.data:], n.content)
	}
}

// union returns the value of erofs_inode_i_u.
func (w *indexWriter) union(n *inode) uint32 {
	switch n.mode & sIFMT {
	case sIFCHR, sIFBLK:
		return n.rdev
	case sIFDIR, sIFLNK, sIFREG:
		switch {
		case n.sparse != nil:
			return uint32(n.sparse.bits) & chunkBitsMask
		case n.data > 0:
			return uint32(n.data >> blockBits)
		case n.mode&sIFMT == sIFREG && n.size > 0 && n.content == "":
			return w.base[n.layer] + n.block
		}
	}
	return 0
}

// chunkMap writes the block addresses of a sparse file's chunks.
func (w *indexWriter) chunkMap(n *inode, b []byte) {
	chunk := n.chunks()
	at := w.base[n.layer] + n.block
	hole := func(count uint64) {
		for range count {
			le.PutUint32(b, nullAddr)
			b = b[4:]
		}
	}
	for _, r := range n.sparse.runs {
		hole(uint64(r.skip))
		for range r.count {
			le.PutUint32(b, at)
			b = b[4:]
			at += 1 << n.sparse.bits
		}
		chunk -= uint64(r.skip) + uint64(r.count)
	}
	hole(chunk)
}

// directory writes the blocks of a directory: entries first, their names
// behind them. The last block may be behind the inode.
func (w *indexWriter) directory(n *inode, tail []byte) {
	list := n.list
	data := n.data
	for len(list) > 0 {
		count, used := 0, 0
		for count < len(list) && used+direntSize+len(list[count].name) <= BlockSize {
			used += direntSize + len(list[count].name)
			count++
		}
		var b []byte
		if count == len(list) && n.inlined > 0 {
			b = tail[:used]
		} else {
			b = w.b[data : data+BlockSize]
			data += BlockSize
		}
		dirBlock(b, list[:count])
		list = list[count:]
	}
}

func dirBlock(b []byte, list []named) {
	at := len(list) * direntSize
	for i, e := range list {
		d := b[i*direntSize:]
		le.PutUint64(d[0:], e.ino.nid())
		le.PutUint16(d[8:], uint16(at))
		d[10] = fileType(e.ino.mode)
		at += copy(b[at:], e.name)
	}
}
