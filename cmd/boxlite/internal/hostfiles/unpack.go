package hostfiles

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

const (
	// maxName bounds a name: what is longer, no program of this machine could open
	// (PATH_MAX), and thousands of directories in each other are hard to remove.
	maxName = 4095
	// maxTail bounds what may follow the archive's own end.
	maxTail = 1 << 20
)

// Unpacking says what to do with an archive out of a box.
type Unpacking struct {
	// Root is where everything goes.
	Root *os.Root
	// Name is how the archive's entries must be called, or begin: what was asked
	// for. "." for the content of a directory.
	Name string
	// As is the new name of the one file that the archive must hold. When it is
	// empty, the archive must hold a directory, whose content goes into Root.
	As string
	// Archive keeps owners, set-id and sticky bits, capabilities and, for root,
	// devices. Otherwise all belongs to who calls.
	Archive bool
	// there says that Root is the copied directory's and was there before.
	there bool
	// Warn is told what could not be done, in one line that is fit to print.
	Warn func(string)
}

// Unpack reads an archive to its end. It stops at the first error, whose text is
// fit to print; what was unpacked by then stays.
func (u Unpacking) Unpack(r io.Reader) error {
	if err := u.unpack(r); err != nil {
		return &printableError{err}
	}
	return nil
}

// printableError shows an error that may have names out of a box in it, as those
// of package os do, without what would steer a terminal.
type printableError struct{ err error }

func (e *printableError) Error() string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, e.err.Error())
}

func (e *printableError) Unwrap() error { return e.err }

func (u Unpacking) unpack(r io.Reader) error {
	s := &unpacker{Unpacking: u, tar: tar.NewReader(r), dirs: []string{"."}}
	for n := 0; ; n++ {
		h, err := s.tar.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return errors.New("the box sent an empty archive")
			}
			break
		}
		if err != nil {
			return archiveError(err)
		}
		if u.As != "" && n > 0 {
			return fmt.Errorf("the box sent more than the file that was asked for: %s", quote(h.Name))
		}
		if err := s.entry(h); err != nil {
			return err
		}
	}
	if err := s.leave(""); err != nil {
		return err
	}
	// The box's verdict comes behind the archive.
	if n, err := io.CopyN(io.Discard, r, maxTail); err == nil {
		return fmt.Errorf("the box sent more than %d bytes behind the archive's end", n)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// archiveError puts the words of archive/tar right: they are about the box.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("the box sent a damaged archive: %w", err)
	}
	return err
}

// quote makes a name out of a box fit to print.
func quote(name string) string {
	if len(name) > 200 {
		name = name[:200] + "..."
	}
	return fmt.Sprintf("%q", name)
}

type unpacker struct {
	Unpacking
	tar  *tar.Reader
	dirs []string // of the last entry's, each in the one before: real directories
	open []visited
	lost bool // an owner could not be set, and it was told
}

// visited is a directory whose mode and time are set when its content is
// complete: the mode may forbid to write there, and writing changes the time.
type visited struct {
	name string
	mode fs.FileMode
	time time.Time
}

// place turns the name of an entry into one below Root. What was not asked for
// is an attack.
func (u *unpacker) place(name string) (string, error) {
	rel := strings.TrimSuffix(name, "/")
	if u.Name == "." {
		rel = strings.TrimPrefix(rel, "./")
	} else if rel == u.Name {
		rel = "."
	} else if rest, ok := strings.CutPrefix(rel, u.Name+"/"); ok && rest != "." {
		rel = rest
	} else {
		return "", fmt.Errorf("the box sent %s where %s was asked for", quote(name), quote(u.Name))
	}
	if len(rel) > maxName {
		return "", fmt.Errorf("the box sent a name of %d bytes", len(rel))
	}
	if rel != path.Clean(rel) || !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("the box sent a name that leads elsewhere: %s", quote(name))
	}
	if u.As != "" {
		if rel != "." {
			return "", fmt.Errorf("the box sent %s where a file was asked for", quote(name))
		}
		return u.As, nil
	}
	return rel, nil
}

func (u *unpacker) entry(h *tar.Header) error {
	name, err := u.place(h.Name)
	if err != nil {
		return err
	}
	if sparse(h) {
		return fmt.Errorf("the box sent %s as a sparse file, which could be of any size", quote(h.Name))
	}
	if err := u.leave(name); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm
	if u.Archive {
		for bit, is := range setBits {
			if h.Mode&bit != 0 {
				mode |= is
			}
		}
	}
	switch {
	case h.Typeflag == tar.TypeDir && u.As == "":
		return u.dir(name, mode, h)
	case h.Typeflag == tar.TypeDir || name == ".":
		return fmt.Errorf("the box sent something else than was asked for: %s", quote(h.Name))
	}
	if err := u.parents(path.Dir(name)); err != nil {
		return err
	}
	if err := u.replaceable(name, h); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeLink:
		return u.link(name, h)
	case tar.TypeReg:
		return u.file(name, mode, h)
	case tar.TypeSymlink:
		return u.symlink(name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.special(name, mode, h)
	}
	u.Warn(fmt.Sprintf("%s is left out: it is of unknown type %q", quote(name), h.Typeflag))
	return nil
}

// sparse tells files that grow when they are unpacked.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// parents makes sure that dir and all above it are directories, and no links to
// some, creating what is missing.
func (u *unpacker) parents(dir string) error {
	// What the last entry had in common with this one has been looked at, and
	// directories are never replaced.
	for last := u.dirs[len(u.dirs)-1]; last != "." && dir != last && !strings.HasPrefix(dir, last+"/"); last = u.dirs[len(u.dirs)-1] {
		u.dirs = u.dirs[:len(u.dirs)-1]
	}
	for {
		last := u.dirs[len(u.dirs)-1]
		if dir == last {
			return nil
		}
		rest := dir
		if last != "." {
			rest = dir[len(last)+1:]
		}
		part, _, _ := strings.Cut(rest, "/")
		next := path.Join(last, part)
		if _, err := u.realDir(next); err != nil {
			return err
		}
		u.dirs = append(u.dirs, next)
	}
}

// realDir makes a directory, unless it is there.
func (u *unpacker) realDir(name string) (made bool, err error) {
	err = u.Root.Mkdir(name, 0o755)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	info, err := u.Root.Lstat(name)
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, fmt.Errorf("%s is no directory here (%s), and is not replaced by one", quote(name), info.Mode().Type())
	}
	return false, nil
}

// replaceable makes sure that what has a name may go for an entry that is no
// directory.
func (u *unpacker) replaceable(name string, h *tar.Header) error {
	info, err := u.Root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory here, and is not replaced by a file", quote(name))
	case info.Mode()&fs.ModeDevice != 0 && h.Typeflag == tar.TypeReg:
		return fmt.Errorf("%s is a device here, and is not replaced by a file", quote(name))
	}
	return nil
}

func (u *unpacker) dir(name string, mode fs.FileMode, h *tar.Header) error {
	if name == "." {
		if u.Name == "." || u.there && !u.Archive {
			return nil // somebody else's directory, which content is put into
		}
	} else {
		if err := u.parents(path.Dir(name)); err != nil {
			return err
		}
		made, err := u.realDir(name)
		if err != nil {
			return err
		}
		if !made && !u.Archive {
			return nil // somebody's already, whom it stays with
		}
		// So that its content can be written, whatever it was before.
		if err := u.Root.Chmod(name, 0o700); err != nil {
			return err
		}
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	if len(h.PAXRecords) > 0 {
		f, err := u.Root.Open(name)
		if err != nil {
			return err
		}
		u.xattrs(f, name, h)
		f.Close()
	}
	u.open = append(u.open, visited{name, mode, h.ModTime})
	return nil
}

// leave finishes the directories that do not have name in them.
func (u *unpacker) leave(name string) error {
	for len(u.open) > 0 {
		last := u.open[len(u.open)-1]
		if name != "" && name != last.name && (last.name == "." || strings.HasPrefix(name, last.name+"/")) {
			return nil
		}
		u.open = u.open[:len(u.open)-1]
		if err := u.Root.Chtimes(last.name, time.Time{}, last.time); err != nil {
			return err
		}
		if err := u.Root.Chmod(last.name, last.mode); err != nil {
			return err
		}
	}
	return nil
}
