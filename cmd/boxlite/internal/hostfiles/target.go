package hostfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Aim opens Root for a destination, by Docker's rules, and sets As. isDir says
// what is copied. A directory that exists gets the copy in it, or the content if
// Name is "."; one that does not is made, in a directory that exists.
//
// A destination that is a symbolic link is refused, unless a slash at its end
// says that the directory is meant: an earlier copy may have put the link there.
func (u *Unpacking) Aim(dst string, isDir bool) (err error) {
	slash := meansDir(dst)
	info, err := os.Lstat(dst)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return isLink(dst)
	}
	switch {
	case err == nil && info.IsDir():
		if u.Root, err = os.OpenRoot(dst); err != nil {
			return err
		}
		if u.Name == "." {
			return nil
		}
		if !isDir {
			u.As = u.Name
			return nil
		}
		return u.descend(u.Name)
	case err == nil && slash:
		return fmt.Errorf("%s is no directory", dst)
	case err == nil && isDir:
		return fmt.Errorf("a directory cannot be copied onto %s, which is a file", dst)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil && slash && !isDir:
		return fmt.Errorf("the directory %s does not exist", dst)
	}
	dst = filepath.Clean(dst)
	if u.Root, err = os.OpenRoot(filepath.Dir(dst)); err != nil {
		return err
	}
	if !isDir {
		u.As = filepath.Base(dst)
		return nil
	}
	return u.descend(filepath.Base(dst))
}

// meansDir tells a path that can only be a directory's.
func meansDir(dst string) bool {
	return strings.HasSuffix(dst, string(filepath.Separator)) || strings.HasSuffix(dst, string(filepath.Separator)+".") || dst == "." || dst == ".."
}

// Reachable refuses a destination that Aim refuses whatever is copied: a symbolic
// link, or one in a directory that does not exist. It costs little, and is asked
// before what is copied is fetched.
func Reachable(dst string) error {
	info, err := os.Lstat(dst)
	switch {
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return isLink(dst)
	case err == nil && !info.IsDir() && meansDir(dst):
		return fmt.Errorf("%s is no directory", dst)
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTDIR) && meansDir(dst):
		return fmt.Errorf("%s is no directory", filepath.Clean(dst))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(filepath.Clean(dst))
	if info, err = os.Stat(parent); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is no directory", parent)
	}
	return nil
}

func isLink(dst string) error {
	return fmt.Errorf("%s is a symbolic link: name what it leads to, or put a slash behind it if that is a directory", dst)
}

// descend makes a directory below Root the Root.
func (u *Unpacking) descend(name string) error {
	parent := u.Root
	defer parent.Close()
	u.Root = nil
	made := &unpacker{Unpacking: Unpacking{Root: parent}}
	fresh, err := made.realDir(name)
	if err != nil {
		return err
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	u.Root, u.there = root, !fresh
	return nil
}
