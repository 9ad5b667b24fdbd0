package tarfs

import (
	"encoding/binary"
	"io"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// Owner is who unpacked files belong to.
type Owner struct{ UID, GID uint32 }

// Unpack reads a tar stream to its end and puts what is in it into the directory
// at a path of the box. Files of the same name are replaced, directories merged;
// a directory never takes the place of something else, nor the other way round.
// With an owner, everything that is made belongs to it; with nil, to whom the
// archive says, as do directories that were there.
//
// It stops at the first error; what was unpacked by then stays.
func Unpack(r io.Reader, path string, owner *Owner) error {
	dir, err := openPath(path, true, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return unpack(r, dir, owner)
}

// UnpackAt is [Unpack] into an open directory, which stays open. Nothing that is in it
// leads out of it: links are not followed, and neither are those that somebody
// puts there meanwhile.
func UnpackAt(r io.Reader, dir int, owner *Owner) error {
	own, err := open(dir, ".", unix.O_PATH|unix.O_DIRECTORY, below)
	if err != nil {
		return pathError(".", err)
	}
	return unpack(r, own, owner)
}

// unpack owns root.
func unpack(r io.Reader, root int, owner *Owner) error {
	u := &unpacker{r: NewReader(r), root: root, owner: owner, fd: -1}
	defer u.close()
	for {
		h, err := u.r.Next()
		if err == io.EOF {
			if !u.r.some { // an empty archive has two blocks
				return damaged("nothing came: that is no tar archive")
			}
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h); err != nil {
			return asEntryError(h.Name, err)
		}
	}
	if err := u.leave(""); err != nil {
		return err
	}
	return u.r.Drain()
}

func asEntryError(name string, err error) error {
	if e, ok := err.(*agentapi.Error); ok {
		return e
	}
	errno := unix.Errno(0)
	if x, ok := err.(*xattrError); ok {
		errno, _ = x.err.(unix.Errno)
		return &agentapi.Error{Code: agentapi.CodeSystem, Errno: uint32(errno), Msg: strconv.Quote(name) + ": " + err.Error()}
	}
	if errno, _ = err.(unix.Errno); errno == 0 {
		return err // of the stream
	}
	return pathError(name, errno)
}

type unpacker struct {
	r     *Reader
	root  int
	owner *Owner

	dir  string // directory of the last entry, "" for the root of the archive
	fd   int    // of dir, -1 for none
	open []visited
}

// visited is a directory whose time is set when its content is complete, which
// for archives in the order of a tree is when something outside of it comes.
type visited struct {
	name      string
	sec, nsec int64
}

func (u *unpacker) close() {
	if u.fd >= 0 {
		unix.Close(u.fd)
	}
	unix.Close(u.root)
}

func (u *unpacker) entry(h *Header) error {
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if u.owner != nil {
		h.UID, h.GID = u.owner.UID, u.owner.GID
	}
	if name == "" {
		if h.Type != TypeDir {
			return damaged("an entry without a name")
		}
		return nil // whose directory it is was there before us
	}
	if err := u.leave(name); err != nil {
		return err
	}
	dir, base := split(name)
	if err := u.enter(dir); err != nil {
		return err
	}
	switch h.Type {
	case TypeDir:
		made, err := u.mkdir(base, name, h)
		if err == nil && (made || u.owner == nil) {
			u.open = append(u.open, visited{name, h.Sec, h.Nsec})
		}
		return err
	case TypeReg:
		return u.regular(base, h)
	case TypeLink:
		return u.link(base, h)
	}
	return u.node(base, h)
}

// leave sets the times of the directories that do not have name in them.
func (u *unpacker) leave(name string) error {
	for len(u.open) > 0 {
		last := u.open[len(u.open)-1]
		if strings.HasPrefix(name, last.name+"/") {
			return nil
		}
		u.open = u.open[:len(u.open)-1]
		fd, err := open(u.root, last.name, unix.O_PATH|unix.O_DIRECTORY, below)
		if err != nil {
			continue // somebody in the box has moved it
		}
		err = setTime(fd, last.sec, last.nsec)
		unix.Close(fd)
		if err != nil {
			return asEntryError(last.name, err)
		}
	}
	return nil
}

// enter makes dir the directory of the next entry, creating it if need be.
func (u *unpacker) enter(dir string) error {
	if u.fd >= 0 && u.dir == dir {
		return nil
	}
	if u.fd >= 0 {
		unix.Close(u.fd)
		u.fd = -1
	}
	at := dir
	if at == "" {
		at = "."
	}
	fd, err := open(u.root, at, unix.O_PATH|unix.O_DIRECTORY, below)
	if err == unix.ENOENT {
		if fd, err = u.makeAll(dir); err != nil {
			return err
		}
	}
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return &agentapi.Error{Code: agentapi.CodeFileType, Errno: uint32(err.(unix.Errno)),
			Msg: strconv.Quote(dir) + " is no directory in the box, or has a symbolic link in it, which is not followed: name the directory itself as the destination"}
	}
	if err != nil {
		return pathError(dir, err)
	}
	u.dir, u.fd = dir, fd
	return nil
}

// makeAll makes a directory and those above it that the archive takes for granted.
func (u *unpacker) makeAll(dir string) (fd int, err error) {
	fd, err = open(u.root, ".", unix.O_PATH|unix.O_DIRECTORY, below)
	for part := range strings.SplitSeq(dir, "/") {
		if err != nil {
			return -1, err
		}
		made := false
		if err = unix.Mkdirat(fd, part, 0o755); err == nil {
			made = true
		} else if err == unix.EEXIST {
			err = nil
		}
		next := -1
		if err == nil {
			next, err = open(fd, part, unix.O_PATH|unix.O_DIRECTORY, below)
		}
		unix.Close(fd)
		fd = next
		if err == nil && made && u.owner != nil {
			err = unix.Fchownat(fd, "", int(u.owner.UID), int(u.owner.GID), unix.AT_EMPTY_PATH)
		}
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return fd, err
}

func (u *unpacker) mkdir(base, name string, h *Header) (made bool, err error) {
	err = unix.Mkdirat(u.fd, base, 0o700)
	if err != nil && err != unix.EEXIST {
		return false, err
	}
	made = err == nil
	fd, err := open(u.fd, base, unix.O_RDONLY|unix.O_DIRECTORY, below)
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return false, wrongType(name, "there is something in the box that is no directory, and a directory does not replace it")
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if !made && u.owner != nil { // somebody's already, whom it stays with
		return false, nil
	}
	if err := unix.Fchown(fd, int(h.UID), int(h.GID)); err != nil {
		return made, err
	}
	if err := setXattrs(fd, h.Xattrs); err != nil {
		return made, err
	}
	return made, unix.Fchmod(fd, h.Mode)
}

func wrongType(name, what string) error {
	return &agentapi.Error{Code: agentapi.CodeFileType, Msg: strconv.Quote(name) + ": " + what}
}

// put makes what the entry is. Where something is, the new one is made under another
// name and then takes its place, so that what is there stays until all of the new
// one is; and so if somebody in the box is quicker. make says whether it made
// anything, and fails with EEXIST where there is something.
func (u *unpacker) put(base string, h *Header, there bool, make func(name string) (made bool, err error)) error {
	name := base
	for {
		if there {
			var random [8]byte
			if _, err := unix.Getrandom(random[:], 0); err != nil {
				return err
			}
			name = ".boxlite-" + utoa(binary.NativeEndian.Uint64(random[:]))
		}
		made, err := make(name)
		switch {
		case err == unix.EEXIST && !there:
			there = true
			continue
		case err == nil && there:
			if err = unix.Renameat(u.fd, name, u.fd, base); err == unix.EISDIR {
				err = wrongType(h.Name, dirInPlace)
			}
		}
		if err != nil && made {
			_ = unix.Unlinkat(u.fd, name, 0) // the error at hand is the news
		}
		return err
	}
}

const dirInPlace = "there is a directory in the box, and a file does not replace it"

// look describes what has the name of the next entry, which must not be a directory.
func (u *unpacker) look(base string, h *Header) (st unix.Statx_t, there bool, err error) {
	err = unix.Statx(u.fd, base, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	switch {
	case err == unix.ENOENT:
		return st, false, nil
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = wrongType(h.Name, dirInPlace)
	}
	return st, err == nil, err
}

func (u *unpacker) regular(base string, h *Header) error {
	st, there, err := u.look(base, h)
	if err != nil {
		return err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case there && (kind == unix.S_IFCHR || kind == unix.S_IFBLK):
		return wrongType(h.Name, "there is a device in the box, and a file does not replace it")
	case there && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return u.overwrite(base, h, unix.EBUSY)
	}
	var refused error // before anything of the content was read
	err = u.put(base, h, there, func(name string) (bool, error) {
		fd, err := unix.Openat(u.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if refused = err; err != nil {
			return false, err
		}
		defer unix.Close(fd)
		return true, u.content(fd, h)
	})
	if there && (refused == unix.EPERM || refused == unix.EACCES || refused == unix.ENOENT) {
		return u.overwrite(base, h, refused) // nothing can be made in /proc and /sys
	}
	return err
}

// content fills a file and gives it all that the entry says of it.
func (u *unpacker) content(fd int, h *Header) error {
	if err := u.fill(fd, h.Sparse); err != nil {
		return err
	}
	// The owner goes first: changing it takes set-id bits and capabilities away. The
	// mode goes last: it may forbid attributes to be set.
	if err := unix.Fchown(fd, int(h.UID), int(h.GID)); err != nil {
		return err
	}
	if err := setXattrs(fd, h.Xattrs); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, h.Mode); err != nil {
		return err
	}
	return setTime(fd, h.Sec, h.Nsec)
}

// overwrite writes to a regular file that is there and cannot be replaced, for the
// reason why: something is mounted on it, or its file system makes it up.
func (u *unpacker) overwrite(base string, h *Header, why error) error {
	fd, err := unix.Openat(u.fd, base, unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return why
	}
	return u.fill(fd, h.Sparse)
}

// fill writes the entry's content to an empty file, of a sparse one without the zeros.
func (u *unpacker) fill(fd int, sparse bool) error {
	off := int64(0)
	for {
		p, err := u.r.Chunk()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for len(p) > 0 {
			n, hole := len(p), false
			if sparse {
				n, hole = run(p, off)
			}
			if !hole {
				n, err = unix.Pwrite(fd, p[:n], off)
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					return err
				}
			}
			p, off = p[n:], off+int64(n)
		}
	}
	if !sparse {
		return nil
	}
	return unix.Ftruncate(fd, off)
}

// holeSize is what file systems leave out, and a divisor of it on those that have
// larger blocks.
const holeSize = 4096

var zeros [holeSize]byte

// run returns how many bytes of p, which is not empty and belongs at off, are either
// zeros or what must be written.
func run(p []byte, off int64) (n int, hole bool) {
	for n < len(p) {
		k := min(len(p)-n, int(holeSize-(off+int64(n))%holeSize))
		zero := string(p[n:n+k]) == string(zeros[:k]) // compared, not copied
		if n > 0 && zero != hole {
			break
		}
		n, hole = n+k, zero
	}
	return n, hole
}

// link makes a hard link to something that the archive had before, or that was
// there before it.
func (u *unpacker) link(base string, h *Header) error {
	target, err := clean(h.Link)
	if err != nil {
		return err
	}
	dir, of := split(target)
	if of == "" {
		return damaged(strconv.Quote(h.Name) + " is a link to nothing")
	}
	if dir == "" {
		dir = "."
	}
	from, err := open(u.root, dir, unix.O_PATH|unix.O_DIRECTORY, below)
	if err != nil {
		return pathError(h.Link, err)
	}
	defer unix.Close(from)
	var a, b unix.Stat_t
	if unix.Fstatat(from, of, &a, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstatat(u.fd, base, &b, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino {
		return nil // a link to itself, which making room for would delete
	}
	_, there, err := u.look(base, h)
	if err != nil {
		return err
	}
	return u.put(base, h, there, func(name string) (bool, error) {
		err := unix.Linkat(from, of, u.fd, name, 0)
		return err == nil, err
	})
}

// node makes a symbolic link, device or FIFO.
func (u *unpacker) node(base string, h *Header) error {
	kind := map[byte]uint32{TypeSymlink: unix.S_IFLNK, TypeChar: unix.S_IFCHR, TypeBlock: unix.S_IFBLK, TypeFIFO: unix.S_IFIFO}[h.Type]
	_, there, err := u.look(base, h)
	if err != nil {
		return err
	}
	return u.put(base, h, there, func(name string) (bool, error) {
		var err error
		if h.Type == TypeSymlink {
			err = unix.Symlinkat(h.Link, u.fd, name)
		} else {
			err = unix.Mknodat(u.fd, name, kind|0o600, int(unix.Mkdev(h.Major, h.Minor)))
		}
		if err != nil {
			return false, err
		}
		return true, u.dress(name, kind, h)
	})
}

// dress gives a new link, device or FIFO all that the entry says of it.
func (u *unpacker) dress(name string, kind uint32, h *Header) error {
	fd, err := open(u.fd, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Whoever owns the directory may have put something else here: another name of
	// a file that is not theirs, for us to give to them.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || st.Nlink != 1 {
		return wrongType(h.Name, "was exchanged while it was made")
	}
	if err := unix.Fchownat(fd, "", int(h.UID), int(h.GID), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if h.Type != TypeSymlink { // which has no permissions
		if err := unix.Fchmodat(unix.AT_FDCWD, procFD(fd), h.Mode, 0); err != nil {
			return err
		}
	}
	return setTime(fd, h.Sec, h.Nsec)
}

// setTime sets the modification time of an open file; O_PATH is enough.
func setTime(fd int, sec, nsec int64) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: nsec}}
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}
