package erofs

// kind is the kind of a metadata record.
type kind byte

const (
	kindDir      kind = 'd'
	kindReg      kind = 'f'
	kindSymlink  kind = 'l'
	kindChar     kind = 'c'
	kindBlock    kind = 'b'
	kindFifo     kind = 'p'
	kindSock     kind = 's'
	kindLink     kind = 'h' // hard link; target is a path
	kindWhiteout kind = 'w' // base is hidden in lower layers
	kindOpaque   kind = 'o' // all of dir is hidden in lower layers

	recordDir kind = '/' // sets the directory of the records that follow
	recordEnd kind = 'E'
)

func (k kind) mode() uint16 {
	switch k {
	case kindDir:
		return sIFDIR
	case kindReg:
		return sIFREG
	case kindSymlink:
		return sIFLNK
	case kindChar:
		return sIFCHR
	case kindBlock:
		return sIFBLK
	case kindFifo:
		return sIFIFO
	case kindSock:
		return sIFSOCK
	}
	return 0
}

// entry is one change a layer makes. Paths are clean and relative to the root,
// the root itself is dir "" and base "".
type entry struct {
	kind   kind
	dir    string
	base   string
	perm   uint16 // 07777
	uid    uint32
	gid    uint32
	sec    int64
	nsec   uint32
	rdev   uint32
	target string // symbolic link: as is; hard link: clean path
	xattrs string // on-disk entries, see encodeXattrs

	size   uint64
	inline string // contents, if all of them are kept in the metadata
	block  uint32 // first block in the blob, if there is one
	sparse *chunkMap
}

// chunkMap says which chunks of a sparse file are in the blob. The chunks that
// are stored follow each other from entry.block on.
type chunkMap struct {
	bits uint8      // chunk size is BlockSize << bits
	runs []chunkRun // in order; chunks behind the last run are holes
}

type chunkRun struct {
	skip  uint32 // chunks of hole in front
	count uint32 // chunks stored, at least 1
}

// path returns the entry's full name, for messages.
func (e *entry) path() string {
	switch {
	case e.dir == "":
		return e.base
	case e.base == "":
		return e.dir
	}
	return e.dir + "/" + e.base
}
