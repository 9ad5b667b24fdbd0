package erofs

import (
	"fmt"
	"strings"
)

// inode is one file of the merged image.
type inode struct {
	mode  uint16
	layer int32  // that has the data
	nlink uint32 // names; of a directory: subdirectories
	uid   uint32
	gid   uint32
	nsec  uint32
	sec   int64
	size  uint64
	rdev  uint32
	block uint32 // in the layer's blob
	depth int32  // of a directory

	xattrs  string
	content string // target of a link, contents of a small file
	sparse  *chunkMap

	children map[string]dent // of a directory
	parent   *inode
	touched  int32 // last layer that put something here or below

	place // see layout.go
}

// dent is one name. layer is the last layer that put it there: a whiteout of
// the same layer does not remove it.
type dent struct {
	ino   *inode
	layer int32
}

func (n *inode) isDir() bool { return n.mode&sIFMT == sIFDIR }

// tree applies layers to an image, in order.
type tree struct {
	root  *inode
	layer int32

	inodes int // made so far, an upper bound of those that are left
	max    int

	// steps bounds the work of paths through links and of whiteouts, which a
	// hostile layer could otherwise make quadratic.
	steps int64

	// cache of the last parent: entries of a folder follow each other
	dir      string
	dirNode  *inode
	slab     []inode
	maxSteps int64
}

const (
	freeSteps     = 1 << 22
	stepsPerEntry = 256
	maxLinks      = 255 // links followed in one path
)

func newTree(maxInodes int) *tree {
	t := &tree{max: maxInodes, maxSteps: freeSteps}
	t.root = &inode{mode: sIFDIR | 0o755, touched: -1}
	t.root.parent = t.root
	t.inodes = 1
	return t
}

func (t *tree) newInode() (*inode, error) {
	if t.inodes++; t.inodes > t.max {
		return nil, fmt.Errorf("image of more than %d files: %w", t.max, ErrLimit)
	}
	if len(t.slab) == 0 {
		t.slab = make([]inode, 256)
	}
	n := &t.slab[0]
	t.slab = t.slab[1:]
	return n, nil
}

func (t *tree) step() error {
	if t.steps++; t.steps > t.maxSteps {
		return fmt.Errorf("layers take more than %d steps to apply: %w", t.maxSteps, ErrLimit)
	}
	return nil
}

// beginLayer starts the layer with the given number.
func (t *tree) beginLayer(n int, entries int) {
	t.layer = int32(n)
	t.dirNode = nil
	t.maxSteps += stepsPerEntry * int64(entries)
}

// apply makes one change.
func (t *tree) apply(e *entry) error {
	switch e.kind {
	case kindOpaque:
		dir, err := t.lookupDir(e.dir)
		if dir == nil || err != nil {
			return err
		}
		return t.hideChildren(dir)
	case kindWhiteout:
		dir, err := t.lookupDir(e.dir)
		if dir == nil || err != nil {
			return err
		}
		return t.hide(dir, e.base)
	}
	if e.base == "" { // only a directory can be the root: see metaReader.entry
		t.setMetadata(t.root, e)
		touch(t.root, t.layer)
		return nil
	}
	dir, err := t.parentOf(e)
	if err != nil {
		return err
	}
	if e.kind == kindLink {
		return t.link(dir, e)
	}
	old, exists := dir.children[e.base]
	if exists && old.ino.isDir() && e.kind == kindDir {
		t.setMetadata(old.ino, e)
		dir.children[e.base] = dent{old.ino, t.layer}
		touch(old.ino, t.layer)
		return nil
	}
	n, err := t.newInode()
	if err != nil {
		return err
	}
	t.setMetadata(n, e)
	n.layer = t.layer
	n.size, n.block, n.rdev, n.sparse = e.size, e.block, e.rdev, e.sparse
	switch e.kind {
	case kindSymlink:
		n.content, n.size = e.target, uint64(len(e.target))
	case kindReg:
		n.content = e.inline
	}
	return t.put(dir, e.base, n)
}

func (t *tree) setMetadata(n *inode, e *entry) {
	n.mode = e.kind.mode() | e.perm
	n.uid, n.gid = e.uid, e.gid
	n.sec, n.nsec = e.sec, e.nsec
	n.xattrs = e.xattrs
}

// put makes n the file called name, in place of what was there.
func (t *tree) put(dir *inode, name string, n *inode) error {
	if n.isDir() {
		if n.depth = dir.depth + 1; n.depth > maxDepth {
			return fmt.Errorf("%.100q is more than %d directories deep: %w", name, maxDepth, ErrLimit)
		}
	}
	if old, ok := dir.children[name]; ok {
		t.drop(dir, old.ino)
		// What was replaced may be part of the cached parent's path.
		t.dirNode = nil
	}
	if n.isDir() {
		n.parent, n.touched = dir, t.layer
		dir.nlink++
	} else {
		n.nlink++
	}
	if dir.children == nil {
		dir.children = make(map[string]dent)
	}
	dir.children[name] = dent{n, t.layer}
	touch(dir, t.layer)
	return nil
}

// touch marks dir and what is above it. A marked directory has only marked
// ones above it.
func touch(dir *inode, layer int32) {
	for dir.touched != layer {
		dir.touched = layer
		dir = dir.parent
	}
}

// drop takes one name of n away.
func (t *tree) drop(dir, n *inode) {
	if !n.isDir() {
		n.nlink--
		return
	}
	dir.nlink--
	// Names below it may be hard links to files that have other names.
	for _, d := range n.children {
		t.drop(n, d.ino)
	}
	n.children = nil
}

// link adds a name for a file that is there.
func (t *tree) link(dir *inode, e *entry) error {
	tdir, tbase := splitPath(e.target)
	at, err := t.lookupDir(tdir)
	if err != nil {
		return err
	}
	var n *inode
	if at != nil {
		n = at.children[tbase].ino
	}
	switch {
	case n == nil:
		return fmt.Errorf("hard link %q to %q, which does not exist: %w", e.path(), e.target, ErrFormat)
	case n.isDir():
		return fmt.Errorf("hard link %q to %q, which is a directory: %w", e.path(), e.target, ErrFormat)
	}
	if dir.children[e.base].ino == n { // already this file's name
		dir.children[e.base] = dent{n, t.layer}
		touch(dir, t.layer)
		return nil
	}
	return t.put(dir, e.base, n)
}

// hide removes what lower layers have under a name.
func (t *tree) hide(dir *inode, name string) error {
	d, ok := dir.children[name]
	switch {
	case !ok:
		return nil
	case d.ino.isDir() && d.ino.touched == t.layer:
		return t.hideChildren(d.ino)
	case d.layer == t.layer:
		return nil
	}
	t.drop(dir, d.ino)
	t.dirNode = nil
	delete(dir.children, name)
	return nil
}

// hideChildren removes what lower layers have in a directory.
func (t *tree) hideChildren(dir *inode) error {
	if dir.touched != t.layer {
		for _, d := range dir.children {
			t.drop(dir, d.ino)
		}
		dir.children = nil
		t.dirNode = nil
		return nil
	}
	for name := range dir.children {
		if err := t.step(); err != nil {
			return err
		}
		if err := t.hide(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// parentOf returns the directory an entry goes into, made if missing.
func (t *tree) parentOf(e *entry) (*inode, error) {
	if t.dirNode != nil && t.dir == e.dir {
		return t.dirNode, nil
	}
	dir, err := t.resolve(e.dir, e)
	if err != nil {
		return nil, err
	}
	t.dir, t.dirNode = e.dir, dir
	return dir, nil
}

// lookupDir returns the directory at path, or nil if there is none.
func (t *tree) lookupDir(path string) (*inode, error) { return t.resolve(path, nil) }

// resolve walks to the directory at path, following links inside the root. If
// cause is set, missing directories are made for it and a file in the way is
// an error; without it both give nil.
func (t *tree) resolve(path string, cause *entry) (*inode, error) {
	dir := t.root
	links := 0
	for path != "" {
		if err := t.step(); err != nil {
			return nil, err
		}
		var name string
		name, path, _ = strings.Cut(path, "/")
		switch name {
		case "", ".":
			continue
		case "..": // from a link's target
			dir = dir.parent
			continue
		}
		d, ok := dir.children[name]
		switch {
		case !ok && cause == nil:
			return nil, nil
		case !ok:
			n, err := t.implicit(dir, name, cause)
			if err != nil {
				return nil, err
			}
			dir = n
		case d.ino.isDir():
			dir = d.ino
		case d.ino.mode&sIFMT == sIFLNK:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("more than %d symbolic links on the way to a file: %w", maxLinks, ErrFormat)
			}
			target := d.ino.content
			if target[0] == '/' {
				dir = t.root
			}
			if path != "" {
				target += "/" + path
			}
			path = target
		case cause == nil:
			return nil, nil
		default:
			return nil, fmt.Errorf("%q: its parent %q is not a directory: %w", cause.path(), name, ErrFormat)
		}
	}
	return dir, nil
}

// implicit makes a directory that no layer describes.
func (t *tree) implicit(dir *inode, name string, cause *entry) (*inode, error) {
	if !validName(name) { // from a link's target
		return nil, fmt.Errorf("%q: component of %d bytes in a symbolic link on its way: %w", cause.path(), len(name), ErrFormat)
	}
	n, err := t.newInode()
	if err != nil {
		return nil, err
	}
	n.mode = sIFDIR | 0o755
	n.sec, n.nsec = cause.sec, cause.nsec
	return n, t.put(dir, name, n)
}
