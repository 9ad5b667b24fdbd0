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
)

// dirBatch is how many names of a directory are held at one time.
const dirBatch = 256

// Pack writes the file at a path of this machine to w as a tar stream, with
// everything below it if it is a directory. The entries are named as name, or
// begin with it. A symbolic link at the end of the path is followed if follow is
// set; others are kept as links. Sockets are left out, with a warning.
func Pack(w io.Writer, path, name string, follow bool, warn func(string)) error {
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	info, err := stat(path)
	if err != nil {
		return err
	}
	p := &packer{w: tar.NewWriter(w), warn: warn, links: map[inode]string{}}
	if err := p.entry(path, name, info, follow); err != nil {
		return err
	}
	return p.w.Close()
}

type inode struct{ dev, ino uint64 }

type packer struct {
	w     *tar.Writer
	warn  func(string)
	links map[inode]string // first name of files that have several
}

func (p *packer) entry(path, name string, info fs.FileInfo, follow bool) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	for bit, is := range setBits {
		if info.Mode()&is != 0 {
			h.Mode |= bit
		}
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if st == nil {
		return fmt.Errorf("%s: no description of it can be had", path)
	}
	h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	switch mode := info.Mode(); {
	case mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.dir(path, name, h)
	case mode.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
	case mode&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		var err error
		if h.Linkname, err = os.Readlink(path); err != nil {
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
		p.warn(fmt.Sprintf("%s is left out: it is a %s", path, kind(mode)))
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
	return p.file(path, h, info, follow)
}

func kind(m fs.FileMode) string {
	if m&fs.ModeSocket != 0 {
		return "socket"
	}
	return "file of unknown type"
}

// setBits are the bits of a mode beyond permissions, in tar and in Go.
var setBits = map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky}

// open opens a file or directory without waiting for a FIFO that took its place.
func open(path string, follow bool) (*os.File, error) {
	flags := os.O_RDONLY | syscall.O_NONBLOCK
	if !follow {
		flags |= syscall.O_NOFOLLOW
	}
	return os.OpenFile(path, flags, 0)
}

func (p *packer) file(path string, h *tar.Header, info fs.FileInfo, follow bool) error {
	f, err := open(path, follow)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, info) {
		return fmt.Errorf("%s was exchanged while it was read", path)
	}
	h.Size = now.Size()
	h.PAXRecords = xattrs(f)
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	if _, err = io.CopyN(p.w, f, h.Size); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s became shorter while it was read", path)
	}
	return err
}

func (p *packer) dir(path, name string, h *tar.Header) error {
	f, err := open(path, true) // it may be what the link that Pack follows leads to
	if err != nil {
		return err
	}
	defer f.Close()
	h.PAXRecords = xattrs(f)
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	for {
		list, err := f.ReadDir(dirBatch)
		for _, e := range list {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone meanwhile
			} else if err != nil {
				return err
			}
			if err := p.entry(filepath.Join(path, e.Name()), name+"/"+e.Name(), info, false); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
