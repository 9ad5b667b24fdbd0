package hostfiles

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

func (u *unpacker) file(name string, mode fs.FileMode, h *tar.Header) (err error) {
	f, err := u.Root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := io.Copy(f, u.tar); err != nil {
		return archiveError(err)
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	u.xattrs(f, name, h) // behind the owner, which takes capabilities away, and before the mode, which may forbid it
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return u.Root.Chtimes(name, time.Time{}, h.ModTime)
}

func (u *unpacker) xattrs(f *os.File, name string, h *tar.Header) {
	setXattrs(f, h.PAXRecords, u.Archive, func(what string) { u.Warn(quote(name) + ": " + what) })
}

// symlink makes a symbolic link, whose target is nobody's business.
func (u *unpacker) symlink(name string, h *tar.Header) error {
	if err := u.Root.Symlink(h.Linkname, name); err != nil {
		return err
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	dir, err := u.Root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return setLinkTime(dir, path.Base(name), h.ModTime)
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
	if err := u.vacate(name); err != nil {
		return err
	}
	return u.Root.Link(target, name)
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
		u.Warn(fmt.Sprintf("%s is left out: it is a device, which only root can make, with --archive", quote(name)))
		return nil
	}
	dir, err := u.Root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := mknod(dir, path.Base(name), h); err != nil {
		u.Warn(fmt.Sprintf("%s is left out: %v", quote(name), err))
		return nil
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	if err := u.Root.Chmod(name, mode); err != nil {
		return err
	}
	return u.Root.Chtimes(name, time.Time{}, h.ModTime)
}
