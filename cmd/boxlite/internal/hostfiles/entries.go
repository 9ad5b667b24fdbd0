package hostfiles

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// put makes what an entry is. Where something is, the new one is made under another
// name and then takes its place, so that what is there stays until all of the new
// one is. make says whether it made anything.
func (u *unpacker) put(name string, make func(name string) (made bool, err error)) error {
	_, err := u.Root.Lstat(name)
	there := !errors.Is(err, fs.ErrNotExist)
	at := name
	if there {
		at = path.Join(path.Dir(name), ".boxlite-"+rand.Text())
	}
	made, err := make(at)
	if err == nil && there {
		err = u.Root.Rename(at, name)
	}
	if err != nil && made {
		_ = u.Root.Remove(at) // the error at hand is the news
	}
	return named(err, name)
}

func (u *unpacker) file(name string, mode fs.FileMode, h *tar.Header) error {
	return u.put(name, func(at string) (bool, error) {
		f, err := u.Root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return false, err
		}
		err = u.content(f, at, name, mode, h)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return true, err
	})
}

// named says the name that a file is to have where an error has the one it has so far.
func named(err error, name string) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return &fs.PathError{Op: p.Op, Path: name, Err: p.Err}
	case errors.As(err, &l):
		return &fs.PathError{Op: l.Op, Path: name, Err: l.Err}
	}
	return err
}

// content fills a file and gives it all that the entry says of it.
func (u *unpacker) content(f *os.File, at, name string, mode fs.FileMode, h *tar.Header) error {
	if err := u.fill(f, h); err != nil {
		return err
	}
	if err := u.own(at, h); err != nil {
		return err
	}
	u.xattrs(f, name, h) // behind the owner, which takes capabilities away, and before the mode, which may forbid it
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return u.Root.Chtimes(at, time.Time{}, h.ModTime)
}

func (u *unpacker) fill(f *os.File, h *tar.Header) error {
	if h.PAXRecords[paxComment] != runtime.SparseComment {
		_, err := io.Copy(f, u.tar)
		return archiveError(err)
	}
	w := &sparseWriter{f: f}
	if _, err := io.CopyBuffer(w, u.tar, make([]byte, 64<<10)); err != nil {
		return archiveError(err)
	}
	return f.Truncate(w.off)
}

// paxComment is the key of a pax record that says nothing to other programs.
const paxComment = "comment"

// sparseWriter writes a file from its start, and leaves blocks of zeros out.
type sparseWriter struct {
	f   *os.File
	off int64
}

var zeros [4096]byte

func (w *sparseWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		k := min(len(rest), len(zeros)-int(w.off%int64(len(zeros))))
		if !bytes.Equal(rest[:k], zeros[:k]) {
			if _, err := w.f.WriteAt(rest[:k], w.off); err != nil {
				return len(p) - len(rest), err
			}
		}
		w.off += int64(k)
		rest = rest[k:]
	}
	return len(p), nil
}

func (u *unpacker) xattrs(f *os.File, name string, h *tar.Header) {
	setXattrs(f, h.PAXRecords, u.Archive, func(what string) { u.Warn(quote(name) + ": " + what) })
}

// symlink makes a symbolic link, whose target is nobody's business.
func (u *unpacker) symlink(name string, h *tar.Header) error {
	dir, err := u.Root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return u.put(name, func(at string) (bool, error) {
		if err := u.Root.Symlink(h.Linkname, at); err != nil {
			return false, err
		}
		if err := u.own(at, h); err != nil {
			return true, err
		}
		return true, setLinkTime(dir, path.Base(at), h.ModTime)
	})
}

// link makes a hard link to a file that came before.
func (u *unpacker) link(name string, h *tar.Header) error {
	if u.As != "" {
		return fmt.Errorf("the box sent a link to %s where a file was asked for", quote(h.Linkname))
	}
	target, err := u.place(h.Linkname)
	if err != nil {
		return err
	}
	at := "."
	for part := range strings.SplitSeq(path.Dir(target), "/") {
		at = path.Join(at, part)
		if info, err := u.Root.Lstat(at); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("the box sent a hard link through %s, which is no directory", quote(at))
		}
	}
	info, err := u.Root.Lstat(target)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("the box sent a hard link to the directory %s", quote(target))
	}
	if there, err := u.Root.Lstat(name); err == nil && os.SameFile(there, info) {
		return nil
	}
	return u.put(name, func(at string) (bool, error) {
		err := u.Root.Link(target, at)
		return err == nil, err
	})
}

// own sets the owner, if it is to be kept. Who is not root cannot, which is told
// once.
func (u *unpacker) own(name string, h *tar.Header) error {
	if !u.Archive {
		return nil
	}
	err := u.Root.Lchown(name, h.Uid, h.Gid)
	if errors.Is(err, fs.ErrPermission) {
		if !u.lost {
			u.Warn("owners are not kept: only root can give files away")
		}
		u.lost = true
		return nil
	}
	return err
}

// special makes a FIFO or device.
func (u *unpacker) special(name string, mode fs.FileMode, h *tar.Header) error {
	if h.Typeflag != tar.TypeFifo && !(u.Archive && os.Geteuid() == 0) {
		what := "it is a device, which only root can make, with --archive"
		if os.Geteuid() == 0 {
			what = "it is a device: add --archive to make one"
		}
		if u.As != "" {
			return fmt.Errorf("%s is not copied: %s", quote(name), what)
		}
		u.Warn(fmt.Sprintf("%s is left out: %s", quote(name), what))
		return nil
	}
	dir, err := u.Root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	var refused error
	err = u.put(name, func(at string) (bool, error) {
		if refused = mknod(dir, path.Base(at), h); refused != nil {
			return false, refused
		}
		if err := u.own(at, h); err != nil {
			return true, err
		}
		if err := u.Root.Chmod(at, mode); err != nil {
			return true, err
		}
		return true, u.Root.Chtimes(at, time.Time{}, h.ModTime)
	})
	if refused != nil {
		u.Warn(fmt.Sprintf("%s is left out: %v", quote(name), refused))
		return nil
	}
	return err
}
