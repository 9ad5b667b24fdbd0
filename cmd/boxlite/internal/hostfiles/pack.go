// Package hostfiles turns files of this machine into tar streams and back.
//
// What comes back was made by the guest of a box, which may be hostile. Nothing
// is written outside of the directory that a caller opened, no symbolic link is
// followed on the way, and no more is written than arrives.
package hostfiles

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// dirBatch is how many names of a directory are held at one time.
const dirBatch = 256

// Pack writes the file at a path of this machine to w as a tar stream, with
// everything below it if it is a directory. The entries are named as name, or
// begin with it. A symbolic link at the end of the path is followed if follow is
// set; others are kept as links. What is a directory when it is seen and a link when
// it is opened is an error: another user may be at work in the tree. Sockets are left
// out, with a warning.
func Pack(w io.Writer, path, name string, follow bool, warn func(string)) error {
	if follow {
		var err error
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	p := &packer{w: tar.NewWriter(w), warn: warn, links: map[inode]string{}}
	if err := p.entry(source{path: path}, name, info); err != nil {
		return err
	}
	return p.w.Close()
}

// source is a file to be packed: one of an open directory, or the one that Pack was
// called for.
type source struct {
	dir  *os.Root // nil for Pack's
	path string
}

func (s source) base() string { return filepath.Base(s.path) }

// open opens a file or directory without following a link, or waiting for a FIFO,
// that took its place.
func (s source) open() (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOFOLLOW
	if s.dir == nil {
		return os.OpenFile(s.path, flags, 0)
	}
	f, err := s.dir.OpenFile(s.base(), flags, 0)
	return f, s.named(err)
}

// openDir opens a directory, which may be another by now.
func (s source) openDir() (*os.Root, error) {
	if s.dir == nil {
		return os.OpenRoot(s.path)
	}
	r, err := s.dir.OpenRoot(s.base())
	return r, s.named(err)
}

func (s source) readlink() (string, error) {
	if s.dir == nil {
		return os.Readlink(s.path)
	}
	to, err := s.dir.Readlink(s.base())
	return to, s.named(err)
}

// named puts the whole path into an error that has the last part of it.
func (s source) named(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return &fs.PathError{Op: e.Op, Path: s.path, Err: e.Err}
	}
	return err
}

type inode struct{ dev, ino uint64 }

type packer struct {
	w     *tar.Writer
	warn  func(string)
	links map[inode]string // first name of files that have several
}

func (p *packer) entry(from source, name string, info fs.FileInfo) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	for bit, is := range setBits {
		if info.Mode()&is != 0 {
			h.Mode |= bit
		}
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if st == nil {
		return fmt.Errorf("%s: no description of it can be had", from.path)
	}
	h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	switch mode := info.Mode(); {
	case mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.dir(from, name, h, info)
	case mode.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
	case mode&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		var err error
		if h.Linkname, err = from.readlink(); err != nil {
			return err
		}
	case mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case mode&fs.ModeDevice != 0:
		h.Typeflag = tar.TypeBlock
		if mode&fs.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = device(st)
	default:
		p.warn(fmt.Sprintf("%s is left out: it is a %s", from.path, kind(mode)))
		return nil
	}
	if st.Nlink > 1 {
		key := inode{uint64(st.Dev), uint64(st.Ino)}
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
		} else {
			p.links[key] = name
		}
	}
	if h.Typeflag != tar.TypeReg {
		return p.w.WriteHeader(h)
	}
	return p.file(from, h, info)
}

func kind(m fs.FileMode) string {
	if m&fs.ModeSocket != 0 {
		return "socket"
	}
	return "file of unknown type"
}

// setBits are the bits of a mode beyond permissions, in tar and in Go.
var setBits = map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky}

func (p *packer) file(from source, h *tar.Header, info fs.FileInfo) error {
	f, err := from.open()
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, info) {
		return exchanged(from)
	}
	h.Size = now.Size()
	h.PAXRecords = xattrs(f)
	if st, ok := now.Sys().(*syscall.Stat_t); ok && st.Blocks*512 < h.Size {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxComment] = runtime.SparseComment
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	if _, err = io.CopyN(p.w, f, h.Size); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s became shorter while it was read", from.path)
	}
	return err
}

func exchanged(from source) error {
	return fmt.Errorf("%s was exchanged while it was read", from.path)
}

func (p *packer) dir(from source, name string, h *tar.Header, info fs.FileInfo) error {
	root, err := from.openDir()
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return from.named(err)
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil {
		return from.named(err)
	} else if !os.SameFile(now, info) { // a link took its place
		return exchanged(from)
	}
	h.PAXRecords = xattrs(f)
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	for {
		list, err := f.ReadDir(dirBatch)
		for _, e := range list {
			below := source{dir: root, path: filepath.Join(from.path, e.Name())}
			info, err := root.Lstat(e.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone meanwhile
			} else if err != nil {
				return below.named(err)
			}
			if err := p.entry(below, name+"/"+e.Name(), info); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return from.named(err)
		}
	}
}
