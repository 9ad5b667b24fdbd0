package erofstest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"
)

// File is what can be told about one name. Two walks of equal trees give equal
// slices.
type File struct {
	Path     string // "." is the root
	Mode     uint32 // type and permissions, as st_mode
	UID, GID uint32
	Nlink    uint64
	Sec      int64
	Nsec     uint32
	Major    uint32
	Minor    uint32
	Size     uint64 // 0 for directories, whose size is the file system's business
	Target   string
	Xattrs   map[string]string // nil if none
	SHA256   string            // of a regular file of at most maxHash bytes
	Same     string            // first path of the same inode, if not this one
}

// maxHash bounds the files that a walk reads.
const maxHash = 1 << 31

const (
	maxDirSize  = 256 << 20
	maxWalk     = 8 << 20
	maxDirDepth = 8192
)

// Walk lists the image and checks the rules that a file alone cannot break:
// names are sorted and unique, every inode has as many names as it says, the
// superblock counts all inodes, and no directory has two parents.
func (img *Image) Walk() ([]File, error) {
	w := newWalker(img)
	if err := w.dir(".", img.Root, img.Root, 0); err != nil {
		return nil, err
	}
	if uint64(len(w.nodes)) != img.Inodes {
		return nil, bad("superblock counts %d inodes, there are %d", img.Inodes, len(w.nodes))
	}
	chunked := false
	for nid, n := range w.nodes {
		chunked = chunked || n.Layout == 4
		if w.names[nid] != uint64(n.Nlink) {
			return nil, bad("node %d (%s) has %d names and nlink %d", nid, w.first[nid], w.names[nid], n.Nlink)
		}
	}
	if chunked != (img.Incompat&4 != 0) {
		return nil, bad("chunked files: %v, features %#x", chunked, img.Incompat)
	}
	sort.Slice(w.files, func(i, j int) bool { return w.files[i].Path < w.files[j].Path })
	relink(w.files, w.ids)
	return w.files, nil
}

type walker struct {
	img   *Image
	files []File
	ids   map[string]uint64
	names map[uint64]uint64
	first map[uint64]string
	nodes map[uint64]*Inode
	sums  map[uint64]string // of files read, by node id
}

func newWalker(img *Image) *walker {
	return &walker{img: img, ids: map[string]uint64{}, names: map[uint64]uint64{},
		first: map[uint64]string{}, nodes: map[uint64]*Inode{}, sums: map[uint64]string{}}
}

// relink sets Same from inode ids, over sorted files.
func relink(files []File, ids map[string]uint64) {
	first := make(map[uint64]string)
	for i := range files {
		f := &files[i]
		id, ok := ids[f.Path]
		if !ok || f.Mode&0xf000 == 0x4000 {
			continue
		}
		if p, seen := first[id]; seen {
			f.Same = p
		} else {
			first[id] = f.Path
		}
	}
}

func (w *walker) dir(path string, nid, parent uint64, depth int) error {
	if _, seen := w.nodes[nid]; seen {
		return bad("directory %s has two parents", path)
	}
	n, err := w.img.Inode(nid)
	if err != nil {
		return err
	}
	if !n.IsDir() || depth > maxDirDepth {
		return bad("%s: not a directory, or too deep", path)
	}
	if err := w.add(path, n); err != nil {
		return err
	}
	entries, err := w.img.ReadDir(n)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, e := range entries {
		if w.names[e.Nid]++; len(w.files) > maxWalk {
			return bad("more than %d files", maxWalk)
		}
		switch {
		case e.Name == ".":
			if e.Nid != nid {
				return bad("%s: . is node %d", path, e.Nid)
			}
			continue
		case e.Name == "..":
			if e.Nid != parent {
				return bad("%s: .. is node %d", path, e.Nid)
			}
			continue
		}
		child := e.Name
		if path != "." {
			child = path + "/" + e.Name
		}
		if e.Type == 2 {
			if err := w.dir(child, e.Nid, nid, depth+1); err != nil {
				return err
			}
			continue
		}
		c := w.nodes[e.Nid]
		if c == nil {
			if c, err = w.img.Inode(e.Nid); err != nil {
				return err
			}
		}
		if want := fileTypes[c.Mode>>12]; want != e.Type || c.IsDir() {
			return bad("%s: entry has type %d, inode mode %#o", child, e.Type, c.Mode)
		}
		if err := w.add(child, c); err != nil {
			return err
		}
	}
	return nil
}

// fileTypes maps the type bits of a mode to EROFS_FT_*.
var fileTypes = map[uint16]byte{8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 12: 6, 10: 7}

func (w *walker) add(path string, n *Inode) error {
	f := File{Path: path, Mode: uint32(n.Mode), UID: n.UID, GID: n.GID, Nlink: uint64(n.Nlink),
		Sec: n.Sec, Nsec: n.Nsec, Xattrs: n.Xattrs}
	switch n.Mode & 0xf000 {
	case 0x8000:
		f.Size = n.Size
		if sum, done := w.sums[n.Nid]; done {
			f.SHA256 = sum
		} else if n.Size <= w.img.MaxHash {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(fileReader{w.img, n}, 0, int64(n.Size))); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			f.SHA256 = hex.EncodeToString(h.Sum(nil))
			w.sums[n.Nid] = f.SHA256
		}
	case 0xa000:
		if n.Size == 0 || n.Size >= block {
			return bad("%s: link of %d bytes", path, n.Size)
		}
		b := make([]byte, n.Size)
		if _, err := w.img.ReadAt(n, b, 0); err != nil {
			return err
		}
		f.Size, f.Target = n.Size, string(b)
	case 0x2000, 0x6000:
		f.Major, f.Minor = n.Device()
	}
	w.files = append(w.files, f)
	w.ids[path] = n.Nid
	w.nodes[n.Nid] = n
	if w.first[n.Nid] == "" {
		w.first[n.Nid] = path
	}
	return nil
}

// Dirent is one entry of a directory.
type Dirent struct {
	Name string
	Nid  uint64
	Type byte
}

// ReadDir reads a directory and checks that binary search would find every
// name.
func (img *Image) ReadDir(n *Inode) ([]Dirent, error) {
	if n.Size > maxDirSize {
		return nil, bad("directory of %d bytes", n.Size)
	}
	data := make([]byte, min(n.Size, uint64(img.size)))
	if _, err := img.ReadAt(n, data, 0); err != nil {
		return nil, err
	}
	var out []Dirent
	for at := 0; at < len(data); at += block {
		b := data[at:min(at+block, len(data))]
		if len(b) < 12 {
			return nil, bad("directory block of %d bytes", len(b))
		}
		first := int(le.Uint16(b[8:]))
		if first == 0 || first%12 != 0 || first > len(b) {
			return nil, bad("first name at %d", first)
		}
		count := first / 12
		for i := range count {
			d := b[i*12:]
			start, end := int(le.Uint16(d[8:])), len(b)
			if i+1 < count {
				end = int(le.Uint16(d[20:]))
			} else if at+block <= len(data) {
				for end = start; end < len(b) && b[end] != 0; {
					end++
				}
			}
			if start < first || start >= end || end > len(b) || end-start > 255 {
				return nil, bad("name from %d to %d", start, end)
			}
			e := Dirent{string(b[start:end]), le.Uint64(d), d[10]}
			if k := len(out); k > 0 && out[k-1].Name >= e.Name {
				return nil, bad("names %q, %q not in order", out[k-1].Name, e.Name)
			}
			for j := range len(e.Name) {
				if e.Name[j] == 0 || e.Name[j] == '/' {
					return nil, bad("name %q", e.Name)
				}
			}
			out = append(out, e)
		}
	}
	return out, nil
}

type fileReader struct {
	img *Image
	n   *Inode
}

func (f fileReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.img.ReadAt(f.n, p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Lookup returns the inode at a path; links are not followed.
func (img *Image) Lookup(path string) (*Inode, error) {
	files, err := img.walkIDs()
	if err != nil {
		return nil, err
	}
	nid, ok := files[path]
	if !ok {
		return nil, bad("no file %q", path)
	}
	return img.Inode(nid)
}

func (img *Image) walkIDs() (map[string]uint64, error) {
	w := newWalker(img)
	err := w.dir(".", img.Root, img.Root, 0)
	return w.ids, err
}
